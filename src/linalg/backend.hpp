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

/// oneDNN, single precision only; arguments as above. Works on a transposed copy of B where that is faster,
/// in one buffer of the process: for the thread that launches kernels. Throws `std::logic_error` with its
/// status if it refuses.
void gemm_onednn(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                 float const* B, Index ldb, float beta, float* C, Index ldc);

/// Elements of that copy; 0 where there is none.
Index onednn_copy(Op b, Index m, Index n, Index k);

/// The same without a copy, for any thread; on that thread alone inside a parallel region.
void gemm_onednn_in_thread(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                           float const* B, Index ldb, float beta, float* C, Index ldc);

/// oneDNN, 16-bit operands and sums in single precision. TC is bfloat16 or float. Keeps what oneDNN compiled
/// for a shape, for as many shapes as fit a bounded cache, and one scratch buffer. Throws `std::logic_error`
/// with oneDNN's status where it has no such product for this processor.
///
/// oneDNN has two kernels: one is compiled for fixed extents, a third of a millisecond once a shape, and
/// works in our scratch; one takes any extents, and allocates its packed blocks itself while it runs.
/// `by_shape` picks one; `general` is for extents that rarely come again.
enum class Bf16Kernel { by_shape, fixed, general };
template <class TC>
void gemm_bf16(Op a, Op b, Index m, Index n, Index k, float alpha, bfloat16 const* A, Index lda,
               bfloat16 const* B, Index ldb, float beta, TC* C, Index ldc,
               Bf16Kernel kernel = Bf16Kernel::by_shape);

/// Bytes of its scratch for such a product with `Bf16Kernel::by_shape`; 0 where oneDNN allocates itself.
Index bf16_scratch(Op a, Op b, Index m, Index n, Index k);

/// The product of `gemm`, arguments checked, by the library that the rule picks.
template <class T, class TC>
void multiply(Op a, Op b, Index m, Index n, Index k, Real<T> alpha, T const* A, Index lda, T const* B,
              Index ldb, Real<T> beta, TC* C, Index ldc, Bf16Kernel kernel);

}  // namespace upit::backend
