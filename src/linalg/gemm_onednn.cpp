// SPDX-License-Identifier: Apache-2.0
// Owns the call to oneDNN's single-precision product.
#include <dnnl.h>

#include <string>

#include "backend.hpp"
#include "upit/core/error.hpp"

namespace upit::backend {

void gemm_onednn(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                 float const* B, Index ldb, float beta, float* C, Index ldc) {
  auto const flag = [](Op op) { return op == Op::none ? 'N' : 'T'; };
  dnnl_status_t const status = dnnl_sgemm(flag(a), flag(b), m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  if (status != dnnl_success)
    expect(false, "dnnl_sgemm returned status " + std::to_string(static_cast<int>(status)));
}

}  // namespace upit::backend
