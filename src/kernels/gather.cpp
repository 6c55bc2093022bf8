// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the row copies.
#include "upit/kernels/gather.hpp"

#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class T>
void gather_rows(Exec const& exec, View2<T const> x, View1<int const> row, View2<T> y) {
  Index const M = extent(row, 0), C = extent(x, 1);
  expect_shape(y, M, C, "gather_rows: y is not (M, C)");
  Kokkos::parallel_for(
      "upit::gather_rows", row_policy(exec, M, C), KOKKOS_LAMBDA(Row const& r) {
        Index const m = row_index(r);
        T const* const from = x.data() + row(m) * C;
        T* const to = y.data() + m * C;
        row_for(r, C, [=](Index const c) { to[c] = from[c]; });
      });
}

template <class T>
void scatter_rows(Exec const& exec, View2<T const> y, View1<int const> row, View2<T> x) {
  Index const M = extent(row, 0), C = extent(x, 1);
  expect_shape(y, M, C, "scatter_rows: y is not (M, C)");
  Kokkos::parallel_for(
      "upit::scatter_rows", row_policy(exec, M, C), KOKKOS_LAMBDA(Row const& r) {
        Index const m = row_index(r);
        T const* const from = y.data() + m * C;
        T* const to = x.data() + row(m) * C;
        row_for(r, C, [=](Index const c) { to[c] = from[c]; });
      });
}

#define UPIT_INSTANTIATE(T)                                                              \
  template void gather_rows<T>(Exec const&, View2<T const>, View1<int const>, View2<T>); \
  template void scatter_rows<T>(Exec const&, View2<T const>, View1<int const>, View2<T>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
