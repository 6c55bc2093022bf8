// SPDX-License-Identifier: Apache-2.0
// Owns products over groups of rows, one expert's tokens after the other's, of every build: their checks.
#include "grouped_products.hpp"
#include "product_checks.hpp"
#include "upit/core/product_region.hpp"

namespace upit {
namespace {

template <class T, class TC>
void multiply_checked(Exec const& exec, backend::GroupedProducts<T, TC> const& p) {
  for (Index e = 0; e < p.groups; ++e) {
    expect(p.offset[e] <= p.offset[e + 1], "grouped_gemm: offsets fall");
    auto const one = p[e];
    check_product(p.a, p.b, one.m, one.n, one.k, p.lda, p.ldb, p.ldc);
  }
  backend::multiply_groups(exec, p);
}

}  // namespace

template <class T, class TC>
void grouped_gemm(Exec const& exec, Index groups, Index const* offset, Op b, Index n, Index k, Real<T> alpha,
                  T const* A, Index lda, T const* B, Index ldb, Index stride_b, Real<T> beta, TC* C,
                  Index ldc) {
  ProductRegion const region("upit::grouped_gemm", groups, offset[groups] - offset[0], n, k, false,
                             b == Op::transpose);
  multiply_checked<T, TC>(
      exec, {Op::none, b, groups, offset, 0, n, k, alpha, beta, A, lda, B, ldb, C, ldc, stride_b});
}

template <class T, class TC>
void grouped_gemm_transposed(Exec const& exec, Index groups, Index const* offset, Index m, Index n,
                             Real<T> alpha, T const* A, Index lda, T const* B, Index ldb, Real<T> beta, TC* C,
                             Index ldc, Index stride_c) {
  ProductRegion const region("upit::grouped_gemm_transposed", groups, m, n, offset[groups] - offset[0], true,
                             false);
  multiply_checked<T, TC>(exec, {Op::transpose, Op::none, groups, offset, m, n, 0, alpha, beta, A, lda, B,
                                 ldb, C, ldc, stride_c});
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
