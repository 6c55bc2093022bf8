// SPDX-License-Identifier: Apache-2.0
#include "upit/kernels/row_products.hpp"

#include "upit/kernels/shape.hpp"

namespace upit::kernels {

void row_products(Exec const& exec, View3<float const> const& x, View2<Index const> const& pairs,
                  View3<double> const& out) {
  Index const rows = extent(x, 1), columns = extent(x, 2), across = extent(out, 2);
  expect(extent(out, 0) == extent(pairs, 0) && extent(pairs, 1) == 2, "row_products: pairs");
  expect(extent(out, 1) == rows && (across == rows || across == 1), "row_products: out");
  bool const diagonal = across != rows;
  constexpr Index kLanes = 8;  // independent sums, so that the loop runs at the speed of its loads

  Kokkos::parallel_for(
      "upit::row_products",
      Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(exec, 0, extent(out, 0) * rows * across),
      KOKKOS_LAMBDA(Index const entry) {
        Index const pair = entry / (rows * across);
        Index const a = entry / across % rows;
        Index const column = entry % across;
        float const* const u = &x(pairs(pair, 0), a, 0);
        float const* const v = &x(pairs(pair, 1), diagonal ? a : column, 0);
        double lane[kLanes] = {};
        Index k = 0;
        for (; k + kLanes <= columns; k += kLanes) {
          for (Index l = 0; l < kLanes; ++l) {
            lane[l] += static_cast<double>(u[k + l]) * static_cast<double>(v[k + l]);
          }
        }
        for (Index l = 0; k + l < columns; ++l) {
          lane[l] += static_cast<double>(u[k + l]) * static_cast<double>(v[k + l]);
        }
        double sum = 0.0;
        for (Index l = 0; l < kLanes; ++l) sum += lane[l];
        out(pair, a, column) = sum;
      });
}

}  // namespace upit::kernels
