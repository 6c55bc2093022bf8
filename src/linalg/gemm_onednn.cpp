// SPDX-License-Identifier: Apache-2.0
// Owns the calls to oneDNN's single-precision product.
#include <dnnl.h>

#include <memory>
#include <new>
#include <string>

#include "backend.hpp"
#include "upit/core/error.hpp"
#include "upit/linalg/transpose.hpp"

namespace upit::backend {
namespace {

/// One buffer for every product, grown to the largest matrix that was transposed: in a training step, in its
/// first.
class Transposed {
 public:
  float* of(Index size) {
    if (size > size_) {
      buffer_.reset();
      buffer_.reset(static_cast<float*>(::operator new(at(size) * sizeof(float), kAlignment)));
      size_ = size;
    }
    return buffer_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<float, Free> buffer_;
  Index size_ = 0;
};

// Measured on Zen 4 with oneDNN 2.6 (tests/bench/products.cpp): a product with B^T is 10 to 60 % slower than
// one with B, and the copy costs less than that from this many rows of A on.
constexpr Index kRowsWorthACopy = 16;

}  // namespace

Index onednn_copy(Op b, Index m, Index n, Index k) {
  return b == Op::transpose && m >= kRowsWorthACopy ? n * k : 0;
}

void gemm_onednn_in_thread(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                           float const* B, Index ldb, float beta, float* C, Index ldc) {
  auto const flag = [](Op op) { return op == Op::none ? 'N' : 'T'; };
  dnnl_status_t const status = dnnl_sgemm(flag(a), flag(b), m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  if (status != dnnl_success)
    expect(false, "dnnl_sgemm returned status " + std::to_string(static_cast<int>(status)));
}

void gemm_onednn(Op a, Op b, Index m, Index n, Index k, float alpha, float const* A, Index lda,
                 float const* B, Index ldb, float beta, float* C, Index ldc) {
  if (Index const size = onednn_copy(b, m, n, k); size > 0) {
    static Transposed transposed;
    float* const copy = transposed.of(size);
    transpose_on_host(n, k, B, ldb, copy);
    gemm_onednn_in_thread(a, Op::none, m, n, k, alpha, A, lda, copy, n, beta, C, ldc);
  } else {
    gemm_onednn_in_thread(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  }
}

}  // namespace upit::backend
