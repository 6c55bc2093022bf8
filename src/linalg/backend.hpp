// SPDX-License-Identifier: Apache-2.0
// Owns the private interface between the choice in gemm.cpp and the libraries behind it.
#pragma once

#include "upit/linalg/gemm.hpp"

namespace upit::backend {

/// CBLAS: on as many OpenMP threads as it sees fit, on one inside a parallel region. Extents are positive and
/// fit 32 bits: the caller has checked every argument.
void gemm_blas(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda, float const* B,
               Index ldb, float beta, float* C, Index ldc);
void gemm_blas(Op a, Op b, Index m, Index n, Index k, double alpha, double const* A, Index lda,
               double const* B, Index ldb, double beta, double* C, Index ldc);

/// oneDNN, single precision only; arguments as above. Throws `std::logic_error` with its status if it
/// refuses.
void gemm_onednn(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                 float const* B, Index ldb, float beta, float* C, Index ldc);

}  // namespace upit::backend
