// SPDX-License-Identifier: Apache-2.0
// Owns the private interface between grouped_gemm.cpp and the builds: what each group multiplies.
#pragma once

#include "upit/linalg/gemm.hpp"

namespace upit::backend {

/// One product for each group of rows [offset[e], offset[e + 1]): all that differs is derived from these
/// numbers.
template <class T, class TC>
struct GroupedProducts {
  /// C = alpha op(A) op(B) + beta C of one group.
  struct One {
    Index m = 0, n = 0, k = 0;
    T const* A = nullptr;
    T const* B = nullptr;
    TC* C = nullptr;
  };

  Op a = Op::none;  // none: groups are rows of A and C; transpose: a product sums over the rows of its group
  Op b = Op::none;
  Index groups = 0;
  Index const* offset = nullptr;
  Index m = 0, n = 0, k = 0;  // that of m and k which is the number of rows of a group is not used
  Real<T> alpha{}, beta{};
  T const* A = nullptr;
  Index lda = 0;
  T const* B = nullptr;
  Index ldb = 0;
  TC* C = nullptr;
  Index ldc = 0;
  Index stride =
      0;  // from one group's B to the next, or from one group's C to the next if rows are summed over

  One operator[](Index e) const {
    Index const begin = offset[e], count = offset[e + 1] - begin;
    if (a == Op::none) return {count, n, k, A + begin * lda, B + e * stride, C + begin * ldc};
    return {m, n, count, A + begin * lda, B + begin * ldb, C + e * stride};
  }
};

/// All of them, arguments checked; enqueued on `exec`.
template <class T, class TC>
void multiply_groups(Exec const& exec, GroupedProducts<T, TC> const& products);

}  // namespace upit::backend
