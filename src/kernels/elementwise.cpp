// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the elementwise kernels.
#include "upit/kernels/elementwise.hpp"

#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {
namespace {

// Contiguous memory is walked in rows of this many elements: 16 KB of floats, long enough to hide the launch.
constexpr Index kChunk = 4096;

Index chunks(Index n) { return (n + kChunk - 1) / kChunk; }

KOKKOS_INLINE_FUNCTION Index chunk_length(Index n, Index chunk) {
  Index const left = n - chunk * kChunk;
  return left < kChunk ? left : kChunk;
}

template <class T>
Index size(T const& view) {
  return static_cast<Index>(view.size());
}

template <class X, class T>
void add_span(Exec const& exec, char const* label, Index n, X const* x, T* y) {
  using R = Real<T>;
  Kokkos::parallel_for(
      label, row_policy(exec, chunks(n), kChunk), KOKKOS_LAMBDA(Row const& row) {
        Index const chunk = row_index(row);
        X const* const from = x + chunk * kChunk;
        T* const to = y + chunk * kChunk;
        row_for(row, chunk_length(n, chunk), [=](Index const i) {
          to[i] = static_cast<T>(static_cast<R>(to[i]) + static_cast<R>(from[i]));
        });
      });
}

template <class To, class From>
void convert_span(Exec const& exec, Index n, From const* x, To* y) {
  Kokkos::parallel_for(
      "upit::convert", row_policy(exec, chunks(n), kChunk), KOKKOS_LAMBDA(Row const& row) {
        Index const chunk = row_index(row);
        From const* const from = x + chunk * kChunk;
        To* const to = y + chunk * kChunk;
        row_for(row, chunk_length(n, chunk), [=](Index const i) { to[i] = To(from[i]); });
      });
}

template <class T>
void fill_span(Exec const& exec, Index n, T value, T* x) {
  Kokkos::parallel_for(
      "upit::fill", row_policy(exec, chunks(n), kChunk), KOKKOS_LAMBDA(Row const& row) {
        Index const chunk = row_index(row);
        T* const to = x + chunk * kChunk;
        row_for(row, chunk_length(n, chunk), [=](Index const i) { to[i] = value; });
      });
}

template <class T>
void scale_span(Exec const& exec, Index n, Real<T> factor, T* x) {
  using R = Real<T>;
  Kokkos::parallel_for(
      "upit::scale", row_policy(exec, chunks(n), kChunk), KOKKOS_LAMBDA(Row const& row) {
        Index const chunk = row_index(row);
        T* const to = x + chunk * kChunk;
        row_for(row, chunk_length(n, chunk),
                [=](Index const i) { to[i] = static_cast<T>(static_cast<R>(to[i]) * factor); });
      });
}

}  // namespace

template <class T>
void add(Exec const& exec, View1<T const> x, View1<T> y) {
  expect_shape(x, extent(y, 0), "add: x and y differ in shape");
  add_span(exec, "upit::add", size(y), x.data(), y.data());
}

template <class T>
void add(Exec const& exec, View2<T const> x, View2<T> y) {
  expect_shape(x, extent(y, 0), extent(y, 1), "add: x and y differ in shape");
  add_span(exec, "upit::add", size(y), x.data(), y.data());
}

template <class T>
void add_wide(Exec const& exec, View2<Real<T> const> x, View2<T> y) {
  expect_shape(x, extent(y, 0), extent(y, 1), "add_wide: x and y differ in shape");
  add_span(exec, "upit::add_wide", size(y), x.data(), y.data());
}

template <class To, class From>
void convert(Exec const& exec, View1<From const> x, View1<To> y) {
  expect_shape(x, extent(y, 0), "convert: x and y differ in shape");
  convert_span(exec, size(y), x.data(), y.data());
}

template <class To, class From>
void convert(Exec const& exec, View2<From const> x, View2<To> y) {
  expect_shape(x, extent(y, 0), extent(y, 1), "convert: x and y differ in shape");
  convert_span(exec, size(y), x.data(), y.data());
}

template <class T>
void fill(Exec const& exec, View1<T> x, T value) {
  fill_span(exec, size(x), value, x.data());
}

template <class T>
void fill(Exec const& exec, View2<T> x, T value) {
  fill_span(exec, size(x), value, x.data());
}

template <class T>
void scale(Exec const& exec, Real<T> factor, View1<T> x) {
  scale_span(exec, size(x), factor, x.data());
}

template <class T>
void scale(Exec const& exec, Real<T> factor, View2<T> x) {
  scale_span(exec, size(x), factor, x.data());
}

#define UPIT_INSTANTIATE(T)                                    \
  template void add<T>(Exec const&, View1<T const>, View1<T>); \
  template void add<T>(Exec const&, View2<T const>, View2<T>); \
  template void fill<T>(Exec const&, View1<T>, T);             \
  template void fill<T>(Exec const&, View2<T>, T);             \
  template void scale<T>(Exec const&, Real<T>, View1<T>);      \
  template void scale<T>(Exec const&, Real<T>, View2<T>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE
template void add_wide<bfloat16>(Exec const&, View2<float const>, View2<bfloat16>);
template void convert<bfloat16, float>(Exec const&, View1<float const>, View1<bfloat16>);
template void convert<bfloat16, float>(Exec const&, View2<float const>, View2<bfloat16>);
template void convert<float, bfloat16>(Exec const&, View1<bfloat16 const>, View1<float>);
template void convert<float, bfloat16>(Exec const&, View2<bfloat16 const>, View2<float>);
template void fill<int>(Exec const&, View1<int>, int);

}  // namespace upit::kernels
