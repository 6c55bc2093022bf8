// SPDX-License-Identifier: Apache-2.0
// Owns the calls to CBLAS.
#include <cblas.h>

#include "backend.hpp"

namespace upit::backend {
namespace {
CBLAS_TRANSPOSE flag(Op op) { return op == Op::none ? CblasNoTrans : CblasTrans; }
blasint narrow(Index n) { return static_cast<blasint>(n); }  // gemm.cpp has checked the range
}  // namespace

void gemm_blas(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda, float const* B,
               Index ldb, float beta, float* C, Index ldc) {
  cblas_sgemm(CblasRowMajor, flag(a), flag(b), narrow(m), narrow(n), narrow(k), alpha, A, narrow(lda), B,
              narrow(ldb), beta, C, narrow(ldc));
}

void gemm_blas(Op a, Op b, Index m, Index n, Index k, double alpha, double const* A, Index lda,
               double const* B, Index ldb, double beta, double* C, Index ldc) {
  cblas_dgemm(CblasRowMajor, flag(a), flag(b), narrow(m), narrow(n), narrow(k), alpha, A, narrow(lda), B,
              narrow(ldb), beta, C, narrow(ldc));
}

}  // namespace upit::backend
