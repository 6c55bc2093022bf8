// SPDX-License-Identifier: Apache-2.0
// Owns the host forms of what a device's library has calls of its own for.
#include "backend.hpp"
#include "grouped_products.hpp"
#include "upit/core/error.hpp"
#include "upit/linalg/batched_gemm.hpp"
#include "upit/linalg/tf32.hpp"

namespace upit {

template <class T, class TC>
void batched_gemm(Exec const& exec, Op a, Op b, Index batch, Index m, Index n, Index k, Real<T> alpha,
                  MatrixStack<T const> A, MatrixStack<T const> B, Real<T> beta, MatrixStack<TC> C) {
  expect(batch >= 0, "batched_gemm: a negative number of products");
  for (Index i = 0; i < batch; ++i) {
    gemm<T, TC>(exec, a, b, m, n, k, alpha, A.data + i * A.stride, A.ld, B.data + i * B.stride, B.ld, beta,
                C.data + i * C.stride, C.ld);
  }
}

template <class T, class TC>
void backend::multiply_groups(Exec const&, GroupedProducts<T, TC> const& p) {
  // An expert's tokens are another number in every step: a kernel made for it would hardly come again, and
  // with a few hundred tokens the one for any extents was measured as fast within 2 %.
  for (Index e = 0; e < p.groups; ++e) {
    auto const one = p[e];
    multiply<T, TC>(p.a, p.b, one.m, one.n, one.k, p.alpha, one.A, p.lda, one.B, p.ldb, p.beta, one.C, p.ldc,
                    Bf16Kernel::general);
  }
}

bool has_tf32() { return false; }

#define UPIT_INSTANTIATE(T, TC)                                                                            \
  template void batched_gemm<T, TC>(Exec const&, Op, Op, Index, Index, Index, Index, Real<T>,              \
                                    MatrixStack<T const>, MatrixStack<T const>, Real<T>, MatrixStack<TC>); \
  template void backend::multiply_groups<T, TC>(Exec const&, GroupedProducts<T, TC> const&);
UPIT_INSTANTIATE(float, float)
UPIT_INSTANTIATE(double, double)
UPIT_INSTANTIATE(bfloat16, bfloat16)
UPIT_INSTANTIATE(bfloat16, float)
#undef UPIT_INSTANTIATE

}  // namespace upit
