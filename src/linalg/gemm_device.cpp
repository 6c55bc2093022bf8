// SPDX-License-Identifier: Apache-2.0
// Owns the products of device builds: the checks, what no library does for k = 0, one call for the rest.
#include <array>

#include "device_product.hpp"
#include "grouped_products.hpp"
#include "product_checks.hpp"
#include "upit/core/product_region.hpp"
#include "upit/linalg/batched_gemm.hpp"

namespace upit {
namespace {

/// C_i = beta C_i; C may hold NaN where beta = 0.
template <class T, class R>
void scale(Exec const& exec, Index batch, Index m, Index n, R beta, MatrixStack<T> C) {
  if (beta == R(1)) return;
  T* const data = C.data;
  Index const ld = C.ld, stride = C.stride, per_matrix = m * n;
  Kokkos::parallel_for(
      "upit::gemm_scale", Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(exec, 0, batch * per_matrix),
      KOKKOS_LAMBDA(Index const e) {
        Index const i = e / per_matrix, row = (e - i * per_matrix) / n, column = e % n;
        T& value = data[i * stride + row * ld + column];
        value = beta == R(0) ? T(0) : static_cast<T>(beta * static_cast<R>(value));
      });
}

template <class T, class TC>
backend::Product product(Op a, Op b, Index m, Index n, Index k, Real<T> alpha, MatrixStack<T const> A,
                         MatrixStack<T const> B, Real<T> beta, MatrixStack<TC> C) {
  backend::Product p;
  p.a = a, p.b = b;
  p.m = m, p.n = n, p.k = k;
  p.alpha = static_cast<double>(alpha), p.beta = static_cast<double>(beta);
  p.A = A.data, p.lda = A.ld, p.stride_a = A.stride;
  p.B = B.data, p.ldb = B.ld, p.stride_b = B.stride;
  p.C = C.data, p.ldc = C.ld, p.stride_c = C.stride;
  p.in = backend::storage_of<T>(), p.out = backend::storage_of<TC>();
  return p;
}

template <class T, class TC>
void multiply_stacks(Exec const& exec, Op a, Op b, Index batch, Index m, Index n, Index k, Real<T> alpha,
                     MatrixStack<T const> A, MatrixStack<T const> B, Real<T> beta, MatrixStack<TC> C) {
  expect(batch >= 0, "batched_gemm: a negative number of products");
  check_product(a, b, m, n, k, A.ld, B.ld, C.ld);
  if (batch == 0 || m == 0 || n == 0) return;
  if (k == 0) return scale(exec, batch, m, n, beta, C);
  backend::Product p = product<T, TC>(a, b, m, n, k, alpha, A, B, beta, C);
  p.batch = batch;
  backend::multiply(exec, p);
}

}  // namespace

template <class T, class TC>
void gemm(Exec const& exec, Op a, Op b, Index m, Index n, Index k, Real<T> alpha, T const* A, Index lda,
          T const* B, Index ldb, Real<T> beta, TC* C, Index ldc) {
  ProductRegion const region("upit::gemm", 0, m, n, k, a == Op::transpose, b == Op::transpose);
  multiply_stacks<T, TC>(exec, a, b, 1, m, n, k, alpha, {A, lda, 0}, {B, ldb, 0}, beta, {C, ldc, 0});
}

template <class T, class TC>
void batched_gemm(Exec const& exec, Op a, Op b, Index batch, Index m, Index n, Index k, Real<T> alpha,
                  MatrixStack<T const> A, MatrixStack<T const> B, Real<T> beta, MatrixStack<TC> C) {
  multiply_stacks<T, TC>(exec, a, b, batch, m, n, k, alpha, A, B, beta, C);
}

template <class T, class TC>
void backend::multiply_groups(Exec const& exec, GroupedProducts<T, TC> const& products) {
  std::array<Product, kMostOfAKind> some;
  std::size_t count = 0;
  auto const enqueue = [&] {
    if (count > 0) multiply_each(exec, std::span(some).first(count));
    count = 0;
  };
  for (Index e = 0; e < products.groups; ++e) {
    auto const one = products[e];
    if (one.m == 0 || one.n == 0) continue;
    if (one.k == 0) {
      scale(exec, 1, one.m, one.n, products.beta, MatrixStack<TC>{one.C, products.ldc, 0});
      continue;
    }
    some[count++] =
        product<T, TC>(products.a, products.b, one.m, one.n, one.k, products.alpha, {one.A, products.lda, 0},
                       {one.B, products.ldb, 0}, products.beta, {one.C, products.ldc, 0});
    if (count == some.size()) enqueue();
  }
  enqueue();
}

/// Every device that CUDA 12 or ROCm 5 serve multiplies bfloat16 in units of its own, from sm_80 and gfx90a
/// on.
Bf16Products bf16_products() { return Bf16Products::native; }

template <class T>
Index gemm_kept_bytes(Op, Op, Index, Index, Index) {
  return 0;
}
template Index gemm_kept_bytes<float>(Op, Op, Index, Index, Index);
template Index gemm_kept_bytes<double>(Op, Op, Index, Index, Index);
template Index gemm_kept_bytes<bfloat16>(Op, Op, Index, Index, Index);

#define UPIT_INSTANTIATE(T, TC)                                                                            \
  template void gemm<T, TC>(Exec const&, Op, Op, Index, Index, Index, Real<T>, T const*, Index, T const*,  \
                            Index, Real<T>, TC*, Index);                                                   \
  template void batched_gemm<T, TC>(Exec const&, Op, Op, Index, Index, Index, Index, Real<T>,              \
                                    MatrixStack<T const>, MatrixStack<T const>, Real<T>, MatrixStack<TC>); \
  template void backend::multiply_groups<T, TC>(Exec const&, GroupedProducts<T, TC> const&);
UPIT_INSTANTIATE(float, float)
UPIT_INSTANTIATE(double, double)
UPIT_INSTANTIATE(bfloat16, bfloat16)
UPIT_INSTANTIATE(bfloat16, float)
#undef UPIT_INSTANTIATE

}  // namespace upit
