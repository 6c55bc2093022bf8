// SPDX-License-Identifier: Apache-2.0
// Owns the checks of a product's arguments and the one rule that picks the library for its shape.
#include "upit/linalg/gemm.hpp"

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <limits>
#include <type_traits>

#include "backend.hpp"
#include "upit/core/error.hpp"
#include "upit/core/profile.hpp"

namespace upit {
namespace {

constexpr Index kLargest = std::numeric_limits<int>::max();

void check(Op a, Op b, Index m, Index n, Index k, Index lda, Index ldb, Index ldc) {
  expect(m >= 0 && n >= 0 && k >= 0, "gemm: an extent is negative");
  expect(m <= kLargest && n <= kLargest && k <= kLargest && lda <= kLargest && ldb <= kLargest &&
             ldc <= kLargest,
         "gemm: an extent passes the 32-bit integers of BLAS");
  expect(lda >= (a == Op::none ? k : m), "gemm: lda is shorter than a row of A");
  expect(ldb >= (b == Op::none ? n : k), "gemm: ldb is shorter than a row of B");
  expect(ldc >= n, "gemm: ldc is shorter than a row of C");
}

template <class T>
void scale_rows(Index m, Index n, T beta, T* C, Index ldc) {
  for (Index i = 0; i < m; ++i) {
    T* const row = C + i * ldc;
    if (beta == T(0))
      std::fill(row, row + n, T(0));  // C may hold NaN
    else if (beta != T(1))
      for (Index j = 0; j < n; ++j) row[j] *= beta;
  }
}

#ifdef UPIT_HAS_ONEDNN
constexpr bool kHasOnednn = true;
#else
constexpr bool kHasOnednn = false;
#endif

// OpenBLAS packs and tiles for square products; where one extent is a LoRA rank or an expert count, oneDNN
// was measured two to three times faster.
[[maybe_unused]] bool is_skinny(Index m, Index n, Index k) {
  constexpr Index kSkinny = 64;
  return std::min({m, n, k}) <= kSkinny;
}

}  // namespace

template <class T>
void gemm(Exec const& exec, Op a, Op b, Index m, Index n, Index k, T alpha, T const* A, Index lda, T const* B,
          Index ldb, T beta, T* C, Index ldc) {
  static_assert(std::is_same_v<Exec, HostExec>,
                "this source serves host builds; device builds bring their own");
  (void)exec;  // host spaces finish what they are given before they return, so order is kept
  check(a, b, m, n, k, lda, ldb, ldc);
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(m, n, beta, C, ldc);
  ProductRegion const region("upit::gemm", 0, m, n, k, a == Op::transpose, b == Op::transpose);
  if constexpr (kHasOnednn && std::is_same_v<T, float>) {
    if (is_skinny(m, n, k)) return backend::gemm_onednn(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  }
  backend::gemm_blas(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

template <class T>
void gemm_in_thread(Op a, Op b, Index m, Index n, Index k, T alpha, T const* A, Index lda, T const* B,
                    Index ldb, T beta, T* C, Index ldc) {
  check(a, b, m, n, k, lda, ldb, ldc);
  if (m == 0 || n == 0) return;
  if (k == 0) return scale_rows(m, n, beta, C, ldc);
  // OpenBLAS asks OpenMP whether it is inside a parallel region, and then stays on the calling thread.
  backend::gemm_blas(a, b, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

#define UPIT_INSTANTIATE(T)                                                                                \
  template void gemm<T>(Exec const&, Op, Op, Index, Index, Index, T, T const*, Index, T const*, Index, T,  \
                        T*, Index);                                                                        \
  template void gemm_in_thread<T>(Op, Op, Index, Index, Index, T, T const*, Index, T const*, Index, T, T*, \
                                  Index);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit
