// SPDX-License-Identifier: Apache-2.0
// Owns products over groups of rows: one expert's tokens after the other's.
#include "backend.hpp"
#include "upit/core/error.hpp"
#include "upit/core/product_region.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit {
namespace {

// An expert's tokens are another number in every step: a kernel made for it would hardly come again, and with
// a few hundred tokens the one for any extents was measured as fast within 2 %.
constexpr auto kKernel = backend::Bf16Kernel::general;

}  // namespace

template <class T, class TC>
void grouped_gemm([[maybe_unused]] Exec const& exec, Index groups, Index const* offset, Op b, Index n,
                  Index k, Real<T> alpha, T const* A, Index lda, T const* B, Index ldb, Index stride_b,
                  Real<T> beta, TC* C, Index ldc) {
  ProductRegion const region("upit::grouped_gemm", groups, offset[groups] - offset[0], n, k, false,
                             b == Op::transpose);
  for (Index e = 0; e < groups; ++e) {
    Index const begin = offset[e], count = offset[e + 1] - begin;
    expect(count >= 0, "grouped_gemm: offsets fall");
    backend::multiply<T, TC>(Op::none, b, count, n, k, alpha, A + begin * lda, lda, B + e * stride_b, ldb,
                             beta, C + begin * ldc, ldc, kKernel);
  }
}

template <class T, class TC>
void grouped_gemm_transposed([[maybe_unused]] Exec const& exec, Index groups, Index const* offset, Index m,
                             Index n, Real<T> alpha, T const* A, Index lda, T const* B, Index ldb,
                             Real<T> beta, TC* C, Index ldc, Index stride_c) {
  ProductRegion const region("upit::grouped_gemm_transposed", groups, m, n, offset[groups] - offset[0], true,
                             false);
  for (Index e = 0; e < groups; ++e) {
    Index const begin = offset[e], count = offset[e + 1] - begin;
    expect(count >= 0, "grouped_gemm_transposed: offsets fall");
    backend::multiply<T, TC>(Op::transpose, Op::none, m, n, count, alpha, A + begin * lda, lda,
                             B + begin * ldb, ldb, beta, C + e * stride_c, ldc, kKernel);
  }
}

#define UPIT_INSTANTIATE(T, TC)                                                                            \
  template void grouped_gemm<T, TC>(Exec const&, Index, Index const*, Op, Index, Index, Real<T>, T const*, \
                                    Index, T const*, Index, Index, Real<T>, TC*, Index);                   \
  template void grouped_gemm_transposed<T, TC>(Exec const&, Index, Index const*, Index, Index, Real<T>,    \
                                               T const*, Index, T const*, Index, Real<T>, TC*, Index,      \
                                               Index);
UPIT_INSTANTIATE(float, float)
UPIT_INSTANTIATE(double, double)
UPIT_INSTANTIATE(bfloat16, bfloat16)
UPIT_INSTANTIATE(bfloat16, float)
#undef UPIT_INSTANTIATE

}  // namespace upit
