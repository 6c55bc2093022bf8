// SPDX-License-Identifier: Apache-2.0
#include "upit/kernels/task_products.hpp"

#include <algorithm>

#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

constexpr Index kLanes = 8;  // independent sums, so that the loop vectorises in a fixed order
constexpr Index kGroup = 4;  // experts that share the loads of base and other

/// Products of one row of four experts with the same row of another.
template <bool kBased>
KOKKOS_INLINE_FUNCTION void row_of_group(float const* (&x)[kGroup], float const* y, float const* base,
                                         Index columns, double (&sum)[kGroup]) {
  double lane[kGroup][kLanes] = {};
  Index k = 0;
  for (; k + kLanes <= columns; k += kLanes) {
    for (Index l = 0; l < kLanes; ++l) {
      double const origin = kBased ? static_cast<double>(base[k + l]) : 0.0;
      double const task = static_cast<double>(y[k + l]) - origin;
      for (Index g = 0; g < kGroup; ++g) {
        lane[g][l] += (static_cast<double>(x[g][k + l]) - origin) * task;
      }
    }
  }
  for (Index l = 0; k + l < columns; ++l) {
    double const origin = kBased ? static_cast<double>(base[k + l]) : 0.0;
    double const task = static_cast<double>(y[k + l]) - origin;
    for (Index g = 0; g < kGroup; ++g) {
      lane[g][l] += (static_cast<double>(x[g][k + l]) - origin) * task;
    }
  }
  for (Index g = 0; g < kGroup; ++g) {
    sum[g] = 0.0;
    for (Index l = 0; l < kLanes; ++l) sum[g] += lane[g][l];
  }
}

}  // namespace

void task_products(Exec const& exec, View1<float const> const& base, View2<float const> const& pool,
                   Index other, Index columns, View2<double> const& out) {
  Index const rows = extent(out, 0), count = extent(out, 1);
  bool const based = base.extent(0) > 0;
  expect(!based || extent(base, 0) == rows * columns, "task_products: base");
  expect(extent(pool, 1) >= rows * columns, "task_products: pool");
  expect(count <= extent(pool, 0) && other >= 0 && (rows == 0 || other < extent(pool, 0)),
         "task_products: experts of the pool");
  if (rows == 0 || count == 0) return;
  Index const groups = (count + kGroup - 1) / kGroup;

  // Groups of a row follow each other, so that base and other are in cache for all but the first.
  Kokkos::parallel_for(
      "upit::task_products", Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(exec, 0, rows * groups),
      KOKKOS_LAMBDA(Index const item) {
        Index const row = item / groups;
        Index const first = item % groups * kGroup;
        Index const at = row * columns;
        float const* x[kGroup];
        for (Index g = 0; g < kGroup; ++g) {
          Index const expert = first + g < count ? first + g : count - 1;
          x[g] = &pool(expert, 0) + at;
        }
        float const* const y = &pool(other, 0) + at;
        double sum[kGroup];
        if (based) {
          row_of_group<true>(x, y, base.data() + at, columns, sum);
        } else {
          row_of_group<false>(x, y, nullptr, columns, sum);
        }
        for (Index g = 0; g < kGroup && first + g < count; ++g) out(row, first + g) = sum[g];
      });
}

}  // namespace upit::kernels
