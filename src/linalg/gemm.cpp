// SPDX-License-Identifier: Apache-2.0
// Owns the checks of a product's arguments and the one rule that picks the library.
#include "upit/linalg/gemm.hpp"

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <limits>
#include <type_traits>

#include "backend.hpp"
#include "product_checks.hpp"
#include "upit/core/error.hpp"
#include "upit/core/product_region.hpp"

namespace upit {
namespace {

constexpr Index kLargest = std::numeric_limits<int>::max();

void check(Op a, Op b, Index m, Index n, Index k, Index lda, Index ldb, Index ldc) {
  check_product(a, b, m, n, k, lda, ldb, ldc);
  expect(m <= kLargest && n <= kLargest && k <= kLargest && lda <= kLargest && ldb <= kLargest &&
             ldc <= kLargest,
         "gemm: an extent passes the 32-bit integers of BLAS");
}

template <class TC>
void scale_rows(Index m, Index n, Real<TC> beta, TC* C, Index ldc) {
  for (Index i = 0; i < m; ++i) {
    TC* const row = C + i * ldc;
    if (beta == Real<TC>(0))
      std::fill(row, row + n, TC(0));  // C may hold NaN
    else if (beta != Real<TC>(1))
      for (Index j = 0; j < n; ++j) row[j] = TC(beta * static_cast<Real<TC>>(row[j]));
  }
}

#ifdef UPIT_HAS_ONEDNN
constexpr bool kHasOnednn = true;
#else
constexpr bool kHasOnednn = false;
#endif

}  // namespace

template <class T, class TC>
void backend::multiply(Op a, Op b, Index m, Index n, Index k, Real<T> alpha, T const* A, Index lda,
                       T const* B, Index ldb, Real<T> beta, TC* C, Index ldc,
                       [[maybe_unused]] Bf16Kernel kernel) {
  check(a, b, m, n, k, lda, ldb, ldc);
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(m, n, beta, C, ldc);
  ProductRegion const region("upit::gemm", 0, m, n, k, a == Op::transpose, b == Op::transpose);
  if constexpr (std::is_same_v<T, bfloat16>) {
#ifdef UPIT_HAS_ONEDNN_BF16
    backend::gemm_bf16(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc, kernel);
#else
    fail("products of bfloat16 need oneDNN 2.x, which this build was made without");
#endif
  } else {
    // Single precision: at every shape of a training step oneDNN was measured at least as fast as OpenBLAS,
    // by 10 % at the square ones and several times at those with a LoRA rank or an expert count.
    if constexpr (kHasOnednn && std::is_same_v<T, float>) {
      backend::gemm_onednn(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
    } else {
      backend::gemm_blas(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
    }
  }
}

template <class T, class TC>
void gemm(Exec const& exec, Op a, Op b, Index m, Index n, Index k, Real<T> alpha, T const* A, Index lda,
          T const* B, Index ldb, Real<T> beta, TC* C, Index ldc) {
  static_assert(std::is_same_v<Exec, HostExec>,
                "this source serves host builds; device builds bring their own");
  (void)exec;  // host spaces finish what they are given before they return, so order is kept
  backend::multiply<T, TC>(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc, backend::Bf16Kernel::by_shape);
}

template <class T>
Index gemm_kept_bytes(Op a, Op b, Index m, Index n, Index k) {
  if (m == 0 || n == 0 || k == 0) return 0;
  if constexpr (kHasOnednn && std::is_same_v<T, float>)
    return static_cast<Index>(sizeof(float)) * backend::onednn_copy(b, m, n, k);
#ifdef UPIT_HAS_ONEDNN_BF16
  if constexpr (std::is_same_v<T, bfloat16>) return backend::bf16_scratch(a, b, m, n, k);
#endif
  (void)a, (void)b;
  return 0;
}

template <class T>
void gemm_in_thread(Op a, Op b, Index m, Index n, Index k, T alpha, T const* A, Index lda, T const* B,
                    Index ldb, T beta, T* C, Index ldc) {
  check(a, b, m, n, k, lda, ldb, ldc);
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(m, n, beta, C, ldc);
  // Both libraries ask OpenMP whether they are inside a parallel region, and then stay on the calling thread.
  if constexpr (kHasOnednn && std::is_same_v<T, float>)
    return backend::gemm_onednn_in_thread(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  else
    backend::gemm_blas(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

#ifndef UPIT_HAS_ONEDNN_BF16
Bf16Products bf16_products() { return Bf16Products::none; }
#endif

#define UPIT_INSTANTIATE(T, TC)                                                                           \
  template void gemm<T, TC>(Exec const&, Op, Op, Index, Index, Index, Real<T>, T const*, Index, T const*, \
                            Index, Real<T>, TC*, Index);                                                  \
  template void backend::multiply<T, TC>(Op, Op, Index, Index, Index, Real<T>, T const*, Index, T const*, \
                                         Index, Real<T>, TC*, Index, Bf16Kernel);
UPIT_INSTANTIATE(float, float)
UPIT_INSTANTIATE(double, double)
UPIT_INSTANTIATE(bfloat16, bfloat16)
UPIT_INSTANTIATE(bfloat16, float)
#undef UPIT_INSTANTIATE
#define UPIT_INSTANTIATE(T)                                                                                \
  template void gemm_in_thread<T>(Op, Op, Index, Index, Index, T, T const*, Index, T const*, Index, T, T*, \
                                  Index);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE
template Index gemm_kept_bytes<float>(Op, Op, Index, Index, Index);
template Index gemm_kept_bytes<double>(Op, Op, Index, Index, Index);
template Index gemm_kept_bytes<bfloat16>(Op, Op, Index, Index, Index);

}  // namespace upit
