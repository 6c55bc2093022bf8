// SPDX-License-Identifier: Apache-2.0
// Owns what every product asks of its arguments, whatever library takes it.
#pragma once

#include "upit/core/error.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit {

inline void check_product(Op a, Op b, Index m, Index n, Index k, Index lda, Index ldb, Index ldc) {
  expect(m >= 0 && n >= 0 && k >= 0, "gemm: an extent is negative");
  expect(lda >= (a == Op::none ? k : m), "gemm: lda is shorter than a row of A");
  expect(ldb >= (b == Op::none ? n : k), "gemm: ldb is shorter than a row of B");
  expect(ldc >= n, "gemm: ldc is shorter than a row of C");
}

}  // namespace upit
