// SPDX-License-Identifier: Apache-2.0
// Owns the private interface between the choice in gemm.cpp and the libraries behind it.
#pragma once

#include "upit/linalg/gemm.hpp"

namespace upit::backend {

/// Where a product runs: all threads of the caller's OpenMP team, as the library sees fit, or one.
/// Extents are positive here, and every argument has been checked.
void gemm_blas(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda, float const* B,
               Index ldb, float beta, float* C, Index ldc);
void gemm_blas(Op a, Op b, Index m, Index n, Index k, double alpha, double const* A, Index lda,
               double const* B, Index ldb, double beta, double* C, Index ldc);

/// oneDNN; single precision only. Throws `std::logic_error` with its status if it refuses.
void gemm_onednn(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                 float const* B, Index ldb, float beta, float* C, Index ldc);

}  // namespace upit::backend
