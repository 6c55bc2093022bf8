// SPDX-License-Identifier: Apache-2.0
// Owns products of many matrices of one shape, equal distances apart: what attention takes over its heads.
#pragma once

#include "upit/linalg/gemm.hpp"

namespace upit {

/// The matrices of `batched_gemm`: number i begins at data + i * stride, its rows lie ld elements apart.
template <class T>
struct MatrixStack {
  T* data = nullptr;
  Index ld = 0;
  Index stride = 0;  // 0 for an input that all products share
};

/// C_i = alpha op(A_i) op(B_i) + beta C_i for i in [0, batch), all row-major; shapes and types as in
/// `gemm`. The C_i must not overlap.
///
/// One call of the device's library for all products; on hosts one product after the other. Enqueued on
/// `exec`, not finished, when it returns. Throws `std::logic_error` if a leading dimension is too small.
template <class T, class TC = T>
void batched_gemm(Exec const& exec, Op a, Op b, Index batch, Index m, Index n, Index k, Real<T> alpha,
                  MatrixStack<T const> A, MatrixStack<T const> B, Real<T> beta, MatrixStack<TC> C);

}  // namespace upit
