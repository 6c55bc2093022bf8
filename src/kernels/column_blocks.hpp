// SPDX-License-Identifier: Apache-2.0
// Owns the split of a matrix by columns, for sums over rows that no number of threads may change.
#pragma once

#include "upit/kernels/row.hpp"

namespace upit::kernels {

/// Columns per work item: on hosts an equal share for each thread, in whole cache lines; on devices one.
inline Index column_block(Exec const& exec, Index columns) {
  if (!kHostRows) return 1;
  constexpr Index kLine = 16;  // floats; two threads in one line would take it from each other
  Index const threads = std::max<Index>(1, exec.concurrency());
  Index const share = (columns + threads - 1) / threads;
  return std::max<Index>(kLine, (share + kLine - 1) / kLine * kLine);
}

inline auto column_policy(Exec const& exec, Index columns, Index block) {
  return Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(exec, 0, (columns + block - 1) / block);
}

}  // namespace upit::kernels
