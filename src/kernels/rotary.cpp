// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the rotary kernels.
#include "upit/kernels/rotary.hpp"

#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class R>
void rotary_table(Exec const& exec, double theta, View2<R> cosine, View2<R> sine) {
  Index const S = extent(cosine, 0), half = extent(cosine, 1);
  expect(theta > 0, "rotary_table: theta is not positive");
  expect_shape(sine, S, half, "rotary_table: sine is not (S, D/2)");
  Kokkos::parallel_for(
      "upit::rotary_table", row_policy(exec, S, half), KOKKOS_LAMBDA(Row const& row) {
        Index const s = row_index(row);
        row_for(row, half, [=](Index const i) {
          double const angle =
              static_cast<double>(s) * pow(theta, -static_cast<double>(i) / static_cast<double>(half));
          cosine(s, i) = static_cast<R>(cos(angle));
          sine(s, i) = static_cast<R>(sin(angle));
        });
      });
}

namespace {
template <class T>
void rotate(char const* label, Exec const& exec, View1<int const> position, View2<Real<T> const> cosine,
            View2<Real<T> const> sine, Index heads, Real<T> direction, View2<T> qkv) {
  using R = Real<T>;
  Index const N = extent(qkv, 0), columns = extent(qkv, 1), half = extent(cosine, 1);
  expect_shape(position, N, "rotary: position is not (N)");
  expect_shape(sine, extent(cosine, 0), half, "rotary: sine and cosine differ in shape");
  expect(heads >= 0 && heads * 2 * half <= columns, "rotary: a row of qkv holds fewer heads");
  Kokkos::parallel_for(
      label, row_policy(exec, N, heads * half), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        R const* const co = cosine.data() + position(n) * half;
        R const* const si = sine.data() + position(n) * half;
        T* const head = qkv.data() + n * columns;
        row_for(row, heads, half, [=](Index const h, Index const i) {
          T* const first = head + h * 2 * half;
          T* const second = first + half;
          R const a = static_cast<R>(first[i]), b = static_cast<R>(second[i]);
          R const s = direction * si[i];
          first[i] = static_cast<T>(a * co[i] - b * s);
          second[i] = static_cast<T>(b * co[i] + a * s);
        });
      });
}
}  // namespace

template <class T>
void rotary_forward(Exec const& exec, View1<int const> position, View2<Real<T> const> cosine,
                    View2<Real<T> const> sine, Index heads, View2<T> qkv) {
  rotate<T>("upit::rotary_forward", exec, position, cosine, sine, heads, Real<T>(1), qkv);
}

template <class T>
void rotary_backward(Exec const& exec, View1<int const> position, View2<Real<T> const> cosine,
                     View2<Real<T> const> sine, Index heads, View2<T> dqkv) {
  rotate<T>("upit::rotary_backward", exec, position, cosine, sine, heads, Real<T>(-1), dqkv);
}

#define UPIT_INSTANTIATE(T)                                                                                  \
  template void rotary_forward<T>(Exec const&, View1<int const>, View2<Real<T> const>, View2<Real<T> const>, \
                                  Index, View2<T>);                                                          \
  template void rotary_backward<T>(Exec const&, View1<int const>, View2<Real<T> const>,                      \
                                   View2<Real<T> const>, Index, View2<T>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE
template void rotary_table<float>(Exec const&, double, View2<float>, View2<float>);
template void rotary_table<double>(Exec const&, double, View2<double>, View2<double>);

}  // namespace upit::kernels
