// SPDX-License-Identifier: Apache-2.0
// Owns the only door to vendor BLAS: products of row-major matrices, single and grouped.
#pragma once

#include "upit/core/types.hpp"

namespace upit {

enum class Op { none, transpose };

/// C = alpha op(A) op(B) + beta C, all row-major; T is float, double or bfloat16, TC is T or Real<T>. Sums
/// are held in Real<T> and rounded to TC once.
///
///   op(A)  (m, k)  A is (m, k) or, transposed, (k, m), rows lda elements apart
///   op(B)  (k, n)  B is (k, n) or, transposed, (n, k), rows ldb elements apart
///   C      (m, n)  rows ldc elements apart; not read if beta = 0
///
/// Any extent may be 0; k = 0 leaves beta C. Pointers are in the memory of `Exec`. Enqueued on `exec`, not
/// finished, when it returns. Throws `std::logic_error` if a leading dimension is too small.
template <class T, class TC = T>
void gemm(Exec const& exec, Op a, Op b, Index m, Index n, Index k, Real<T> alpha, T const* A, Index lda,
          T const* B, Index ldb, Real<T> beta, TC* C, Index ldc);

/// The same on one thread, for use inside a host parallel region (attention's blocks): float or double. Host
/// memory only.
template <class T>
void gemm_in_thread(Op a, Op b, Index m, Index n, Index k, T alpha, T const* A, Index lda, T const* B,
                    Index ldb, T beta, T* C, Index ldc);

/// For every group e: rows [offset[e], offset[e+1]) of C = alpha (the same rows of A) op(B_e) + beta C.
///
///   offset  (groups + 1)  on the host, ascending
///   A       (rows, k)     all groups together
///   B_e     (k, n) or, transposed, (n, k), at B + e * stride_b
///   C       (rows, n)
template <class T, class TC = T>
void grouped_gemm(Exec const& exec, Index groups, Index const* offset, Op b, Index n, Index k, Real<T> alpha,
                  T const* A, Index lda, T const* B, Index ldb, Index stride_b, Real<T> beta, TC* C,
                  Index ldc);

/// For every group e: C_e = alpha A_e^T B_e + beta C_e over its rows [offset[e], offset[e+1]); gradients of
/// the weights of `grouped_gemm`. An empty group leaves beta C_e.
///
///   offset  (groups + 1)  on the host, ascending
///   A       (rows, m)
///   B       (rows, n)
///   C_e     (m, n) at C + e * stride_c
template <class T, class TC = T>
void grouped_gemm_transposed(Exec const& exec, Index groups, Index const* offset, Index m, Index n,
                             Real<T> alpha, T const* A, Index lda, T const* B, Index ldb, Real<T> beta, TC* C,
                             Index ldc, Index stride_c);

/// Bytes that the library behind `gemm` keeps for the process, beside the arguments, to do such a product:
/// one buffer for all of them, as large as the largest needs. On hosts a copy of B^T in fp32 and oneDNN's
/// scratch in bf16. Not in it: what a library allocates itself while a product runs, a device's workspaces.
template <class T>
Index gemm_kept_bytes(Op a, Op b, Index m, Index n, Index k);

/// What this build on this processor makes of products of bfloat16.
enum class Bf16Products {
  none,      // they throw
  emulated,  // right, but slower than fp32
  native
};
Bf16Products bf16_products();

}  // namespace upit
