// SPDX-License-Identifier: Apache-2.0
// Owns the merge of two experts by their DARE-masked task vectors (Yu et al. 2023; UpIT, Algorithm 2).
#include "upit/kernels/dare.hpp"

#include <type_traits>

#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

// Four elements share a counter. A thread takes as many counters as fill vector registers on a host, and one
// on a GPU.
constexpr Index kCounters = std::is_same_v<Memory, Kokkos::HostSpace> ? 16 : 1;
constexpr Index kElements = 4 * kCounters;

using StretchPolicy = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

/// Stretches of `kElements` of the tensor that hold elements [first_element, first_element + n).
StretchPolicy stretches(Exec const& exec, Index first_element, Index n) {
  expect(first_element >= 0, "dare: first_element");
  if (n == 0) return StretchPolicy(exec, 0, 0);
  return StretchPolicy(exec, first_element / kElements, (first_element + n + kElements - 1) / kElements);
}

std::uint32_t threshold(double drop) {
  expect(drop >= 0.0 && drop < 1.0, "dare: drop in [0, 1)");
  return static_cast<std::uint32_t>(drop * 0x1p32);
}

/// Random words of a stretch, in the order of its elements; zeros, which a threshold of 0 keeps, if nothing
/// can be dropped.
struct Words {
  std::uint32_t of[kElements];

  KOKKOS_INLINE_FUNCTION Words(RandomKey key, Index stretch, std::uint32_t least) {
    if (least == 0) {
      for (Index i = 0; i < kElements; ++i) of[i] = 0;
      return;
    }
    auto const first = static_cast<std::uint64_t>(stretch * kCounters);
    std::uint32_t word[4][kCounters];
    for (Index c = 0; c < kCounters; ++c) {
      RandomBits const bits = random_bits(key, first + static_cast<std::uint64_t>(c));
      for (Index w = 0; w < 4; ++w) word[w][c] = bits.word[w];
    }
    for (Index c = 0; c < kCounters; ++c) {
      for (Index w = 0; w < 4; ++w) of[4 * c + w] = word[w][c];
    }
  }
};

/// Calls `element(i, place)` for the entries i of a stretch, `place` in [0, kElements) being where it lies.
template <class Element>
KOKKOS_INLINE_FUNCTION void for_stretch(Index stretch, Index first_element, Index n, Element const& element) {
  Index const begin = stretch * kElements - first_element;
  if (begin >= 0 && begin + kElements <= n) {  // the loop that vectorises
    for (Index e = 0; e < kElements; ++e) element(begin + e, e);
    return;
  }
  for (Index e = 0; e < kElements; ++e) {
    if (begin + e >= 0 && begin + e < n) element(begin + e, e);
  }
}

/// theta_base + w DARE(first) + (1 - w) DARE(second) of one element.
struct Merge {
  double first_factor, second_factor;
  std::uint32_t least;

  KOKKOS_INLINE_FUNCTION double operator()(double origin, double first, double second, std::uint32_t a,
                                           std::uint32_t b) const {
    double const one = origin + first_factor * (first - origin);
    double const value = a >= least ? one : origin;
    double const both = value + second_factor * (second - origin);
    return b >= least ? both : value;
  }
};

}  // namespace

template <class T>
void dare_merge(Exec const& exec, View1<T const> const& base, View1<T const> const& first,
                View1<T const> const& second, double weight, double drop, RandomKey first_mask,
                RandomKey second_mask, Index first_element, View1<T> const& child) {
  Index const n = extent(child, 0);
  bool const based = base.extent(0) > 0;
  expect(!based || extent(base, 0) == n, "dare_merge: base");
  expect_shape(first, n, "dare_merge: first");
  expect_shape(second, n, "dare_merge: second");
  std::uint32_t const least = threshold(drop);
  Merge const merge = {weight / (1.0 - drop), (1.0 - weight) / (1.0 - drop), least};
  // Plain pointers, of which the child's may be another: only a loop over a stretch read before it is written
  // can vectorise.
  T const* const o = based ? base.data() : nullptr;
  T const* const x = first.data();
  T const* const y = second.data();
  T* const out = child.data();

  Kokkos::parallel_for(
      "upit::dare_merge", stretches(exec, first_element, n), KOKKOS_LAMBDA(Index const stretch) {
        Words const a(first_mask, stretch, least);
        Words const b(second_mask, stretch, least);
        T value[kElements];
        if (o != nullptr) {
          for_stretch(stretch, first_element, n, [&](Index i, Index e) {
            value[e] = T(merge(static_cast<double>(o[i]), static_cast<double>(x[i]),
                               static_cast<double>(y[i]), a.of[e], b.of[e]));
          });
        } else {
          for_stretch(stretch, first_element, n, [&](Index i, Index e) {
            value[e] = T(merge(0.0, static_cast<double>(x[i]), static_cast<double>(y[i]), a.of[e], b.of[e]));
          });
        }
        for_stretch(stretch, first_element, n, [&](Index i, Index e) { out[i] = value[e]; });
      });
}

#define UPIT_INSTANTIATE(T)                                                                       \
  template void dare_merge<T>(Exec const&, View1<T const> const&, View1<T const> const&,          \
                              View1<T const> const&, double, double, RandomKey, RandomKey, Index, \
                              View1<T> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
