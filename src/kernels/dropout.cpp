// SPDX-License-Identifier: Apache-2.0
// Owns dropout with masks keyed by what an element is, so that no mask is stored.
#include "upit/kernels/dropout.hpp"

#include "upit/kernels/philox.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

// Calls f(c, word) for the channels of a row with each channel's random word.
template <class F>
KOKKOS_INLINE_FUNCTION void row_words(Row const& row, Index columns, RandomKey key, std::uint64_t item,
                                      F const& f) {
  if constexpr (kHostRows) {
    (void)row;
    constexpr Index kCounters = 16;  // at once; the last ones may lie beyond the row
    constexpr Index kChannels = 4 * kCounters;
    std::uint32_t word[kChannels];
    for (Index begin = 0; begin < columns; begin += kChannels) {
      std::uint64_t const block = static_cast<std::uint64_t>(begin / 4);
#pragma omp simd
      for (Index i = 0; i < kCounters; ++i) {
        std::uint64_t a = item, b = item >> 32, c = block + static_cast<std::uint64_t>(i), d = c >> 32;
        philox<10>(a, b, c, d, key.low, key.high);
        word[4 * i] = static_cast<std::uint32_t>(a);
        word[4 * i + 1] = static_cast<std::uint32_t>(b);
        word[4 * i + 2] = static_cast<std::uint32_t>(c);
        word[4 * i + 3] = static_cast<std::uint32_t>(d);
      }
      Index const count = columns - begin < kChannels ? columns - begin : kChannels;
#pragma omp simd
      for (Index c = 0; c < count; ++c) f(begin + c, word[c]);
    }
  } else {
    row_for(row, (columns + 3) / 4, [&](Index const b) {
      RandomBits const bits = random_bits(key, item, static_cast<std::uint64_t>(b));
      for (Index w = 0; w < 4; ++w) {
        if (4 * b + w < columns) f(4 * b + w, bits.word[w]);
      }
    });
  }
}

KOKKOS_INLINE_FUNCTION std::uint64_t item_of(std::uint64_t sample, int position) {
  return (sample << 24) ^ static_cast<std::uint64_t>(position);
}

template <class R>
std::uint32_t threshold(R drop) {
  expect(drop >= R(0) && drop < R(1), "dropout: drop in [0, 1)");
  return static_cast<std::uint32_t>(static_cast<double>(drop) * 0x1p32);
}

}  // namespace

template <class T>
void dropout_forward(Exec const& exec, View2<T const> const& x, View1<std::uint64_t const> const& sample,
                     View1<int const> const& position, RandomKey key, Real<T> drop, View2<T> const& y) {
  Index const tokens = extent(x, 0);
  Index const columns = extent(x, 1);
  expect_shape(sample, tokens, "dropout_forward: sample");
  expect_shape(position, tokens, "dropout_forward: position");
  expect_shape(y, tokens, columns, "dropout_forward: y");
  std::uint32_t const least = threshold(drop);
  Real<T> const factor = Real<T>(1) / (Real<T>(1) - drop);

  Kokkos::parallel_for(
      "upit::dropout_forward", row_policy(exec, tokens, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const from = x.data() + n * columns;
        T* const to = y.data() + n * columns;
        row_words(row, columns, key, item_of(sample(n), position(n)),
                  [&](Index const c, std::uint32_t const word) {
                    T const kept = T(factor * from[c]);
                    to[c] = word >= least ? kept : T(0);
                  });
      });
}

template <class T>
void dropout_mask(Exec const& exec, View1<std::uint64_t const> const& sample,
                  View1<int const> const& position, RandomKey key, Real<T> drop, View2<T> const& mask) {
  Index const tokens = extent(mask, 0);
  Index const columns = extent(mask, 1);
  expect_shape(sample, tokens, "dropout_mask: sample");
  expect_shape(position, tokens, "dropout_mask: position");
  std::uint32_t const least = threshold(drop);

  Kokkos::parallel_for(
      "upit::dropout_mask", row_policy(exec, tokens, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T* const to = mask.data() + n * columns;
        row_words(row, columns, key, item_of(sample(n), position(n)),
                  [&](Index const c, std::uint32_t const word) { to[c] = word >= least ? T(1) : T(0); });
      });
}

template <class T>
void dropout_backward(Exec const& exec, View2<T const> const& dy, View1<std::uint64_t const> const& sample,
                      View1<int const> const& position, RandomKey key, Real<T> drop, View2<T> const& dx) {
  Index const tokens = extent(dy, 0);
  Index const columns = extent(dy, 1);
  expect_shape(sample, tokens, "dropout_backward: sample");
  expect_shape(position, tokens, "dropout_backward: position");
  expect_shape(dx, tokens, columns, "dropout_backward: dx");
  std::uint32_t const least = threshold(drop);
  Real<T> const factor = Real<T>(1) / (Real<T>(1) - drop);

  Kokkos::parallel_for(
      "upit::dropout_backward", row_policy(exec, tokens, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const from = dy.data() + n * columns;
        T* const to = dx.data() + n * columns;
        row_words(row, columns, key, item_of(sample(n), position(n)),
                  [&](Index const c, std::uint32_t const word) {
                    T const sum = T(to[c] + factor * from[c]);
                    to[c] = word >= least ? sum : to[c];
                  });
      });
}

#define UPIT_INSTANTIATE(T)                                                                                \
  template void dropout_forward<T>(Exec const&, View2<T const> const&, View1<std::uint64_t const> const&,  \
                                   View1<int const> const&, RandomKey, Real<T>, View2<T> const&);          \
  template void dropout_mask<T>(Exec const&, View1<std::uint64_t const> const&, View1<int const> const&,   \
                                RandomKey, Real<T>, View2<T> const&);                                      \
  template void dropout_backward<T>(Exec const&, View2<T const> const&, View1<std::uint64_t const> const&, \
                                    View1<int const> const&, RandomKey, Real<T>, View2<T> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
