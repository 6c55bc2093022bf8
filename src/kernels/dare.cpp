// SPDX-License-Identifier: Apache-2.0
// Owns the merge of two experts by their DARE-masked task vectors (Yu et al. 2023; UpIT, Algorithm 2).
#include "upit/kernels/dare.hpp"

#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

// Four elements share a counter, and a counter belongs to one thread.
using CounterPolicy = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

CounterPolicy counter_policy(Exec const& exec, Index first_element, Index n) {
  expect(first_element >= 0, "dare: first_element");
  return n > 0 ? CounterPolicy(exec, first_element / 4, (first_element + n + 3) / 4)
               : CounterPolicy(exec, 0, 0);
}

std::uint32_t threshold(double drop) {
  expect(drop >= 0.0 && drop < 1.0, "dare: drop in [0, 1)");
  return static_cast<std::uint32_t>(drop * 0x1p32);
}

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
  double const first_factor = weight / (1.0 - drop);
  double const second_factor = (1.0 - weight) / (1.0 - drop);

  Kokkos::parallel_for(
      "upit::dare_merge", counter_policy(exec, first_element, n), KOKKOS_LAMBDA(Index const counter) {
        RandomBits const a = random_bits(first_mask, static_cast<std::uint64_t>(counter));
        RandomBits const b = random_bits(second_mask, static_cast<std::uint64_t>(counter));
        for (Index w = 0; w < 4; ++w) {
          Index const i = 4 * counter + w - first_element;
          if (i < 0 || i >= n) continue;
          double const origin = based ? static_cast<double>(base(i)) : 0.0;
          double value = origin;
          if (a.word[w] >= least) value += first_factor * (static_cast<double>(first(i)) - origin);
          if (b.word[w] >= least) value += second_factor * (static_cast<double>(second(i)) - origin);
          child(i) = T(value);
        }
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
