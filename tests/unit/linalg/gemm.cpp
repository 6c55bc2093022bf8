// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the matrix products: every library behind the choice, every flag, extents of 0.
#include "upit/linalg/gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "upit/core/random.hpp"

namespace upit::test {
namespace {

template <class T>
View1<T> random_view(Index n, int stream) {
  RandomKey const key = random_key(5, "gemm tests", stream);
  View1<T> view("test", n);
  auto const host = Kokkos::create_mirror_view(view);
  for (Index i = 0; i < n; ++i) host(i) = static_cast<float>(2.0 * random_uniform(key, i) - 1.0);
  Kokkos::deep_copy(view, host);
  return view;
}

template <class T>
std::vector<T> to_host(View1<T> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return std::vector<T>(host.data(), host.data() + host.extent(0));
}

template <class T>
double element(std::vector<T> const& x, Op op, Index ld, Index row, Index column) {
  return op == Op::none ? x[row * ld + column] : x[column * ld + row];
}

// k products and additions of terms below 1, times |alpha|, and beta C below |beta|; u = epsilon / 2.
template <class T>
double tolerance(Index k, double alpha, double beta) {
  return ((k + 2) * k * std::abs(alpha) + 4 * (std::abs(alpha) * k + std::abs(beta))) * 0.5 *
         std::numeric_limits<T>::epsilon();
}

struct Case {
  Index m, n, k;
};
// Below, at and beyond the extent at which the library changes; squares and LoRA's skinny shapes.
std::vector<Case> const kCases = {{0, 3, 2},    {3, 0, 2},    {3, 2, 0},    {1, 1, 1},
                                  {5, 7, 3},    {64, 64, 64}, {65, 66, 67}, {130, 97, 8},
                                  {97, 8, 130}, {8, 130, 97}, {130, 70, 90}};

template <class T, class Product>
void check_products(Product const& product) {
  for (auto const [m, n, k] : kCases)
    for (Op const a : {Op::none, Op::transpose})
      for (Op const b : {Op::none, Op::transpose})
        for (double const beta : {0.0, 1.0, -0.5}) {
          double const alpha = 1.5;
          Index const lda = (a == Op::none ? k : m) + 3, ldb = (b == Op::none ? n : k) + 1, ldc = n + 2;
          auto const A = random_view<T>((a == Op::none ? m : k) * lda, 1);
          auto const B = random_view<T>((b == Op::none ? k : n) * ldb, 2);
          auto const C = random_view<T>(m * ldc, 3);
          auto const before = to_host(C);
          if (beta == 0.0) Kokkos::deep_copy(C, std::numeric_limits<T>::quiet_NaN());  // must not be read
          product(a, b, m, n, k, T(alpha), A.data(), lda, B.data(), ldb, T(beta), C.data(), ldc);
          Kokkos::fence();
          auto const ha = to_host(A), hb = to_host(B), hc = to_host(C);
          for (Index i = 0; i < m; ++i)
            for (Index j = 0; j < ldc; ++j) {
              double const got = hc[i * ldc + j];
              if (j >= n) {  // between the rows of C nothing may change
                ASSERT_TRUE(beta == 0.0 ? std::isnan(got) : got == before[i * ldc + j]);
                continue;
              }
              double want = beta == 0.0 ? 0.0 : beta * before[i * ldc + j];
              for (Index l = 0; l < k; ++l)
                want += alpha * element(ha, a, lda, i, l) * element(hb, b, ldb, l, j);
              ASSERT_LE(std::abs(got - want), tolerance<T>(k, alpha, beta))
                  << m << " x " << n << " x " << k << ", element " << i << ", " << j << ": got " << got
                  << ", want " << want << (a == Op::none ? ", A" : ", A^T") << (b == Op::none ? " B" : " B^T")
                  << ", beta " << beta;
            }
        }
}

template <class T>
class Gemm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Gemm, Types);

TYPED_TEST(Gemm, AgainstPlainLoops) {
  using T = TypeParam;
  Exec const exec;
  check_products<T>([&](auto... arguments) { gemm<T>(exec, arguments...); });
}

TYPED_TEST(Gemm, InThread) {
  using T = TypeParam;
  check_products<T>([](auto... arguments) { gemm_in_thread<T>(arguments...); });
}

template <class T>
void products_in_parallel(Index count, Index d, View1<T> const& A, View1<T> const& B, View1<T> const& C) {
  T const* const a = A.data();
  T const* const b = B.data();
  T* const c = C.data();
  Kokkos::parallel_for("upit::test_gemm_in_thread", Kokkos::RangePolicy<HostExec>(0, count),
                       [=](int const i) {
                         gemm_in_thread<T>(Op::none, Op::transpose, d, d, d, T(1), a + i * d * d, d,
                                           b + i * d * d, d, T(0), c + i * d * d, d);
                       });
}

TYPED_TEST(Gemm, InThreadInsideAParallelRegion) {
  using T = TypeParam;
  Exec const exec;
  Index const count = 40, d = 33;
  auto const A = random_view<T>(count * d * d, 4), B = random_view<T>(count * d * d, 5);
  View1<T> const C("C", count * d * d), D("D", count * d * d);
  products_in_parallel<T>(count, d, A, B, C);
  for (Index i = 0; i < count; ++i)
    gemm<T>(exec, Op::none, Op::transpose, d, d, d, T(1), A.data() + i * d * d, d, B.data() + i * d * d, d,
            T(0), D.data() + i * d * d, d);
  exec.fence();
  auto const c = to_host(C), e = to_host(D);
  for (std::size_t i = 0; i < c.size(); ++i) ASSERT_NEAR(c[i], e[i], 2 * tolerance<T>(d, 1, 0));
}

TYPED_TEST(Gemm, WrongLeadingDimensionsThrow) {
  using T = TypeParam;
  Exec const exec;
  View1<T> const x("x", 100);
  auto const product = [&](Op a, Op b, Index lda, Index ldb, Index ldc) {
    gemm<T>(exec, a, b, 2, 3, 4, T(1), x.data(), lda, x.data(), ldb, T(0), x.data() + 50, ldc);
  };
  EXPECT_NO_THROW(product(Op::none, Op::none, 4, 3, 3));
  EXPECT_NO_THROW(product(Op::transpose, Op::transpose, 2, 4, 3));
  EXPECT_THROW(product(Op::none, Op::none, 3, 3, 3), std::logic_error);
  EXPECT_THROW(product(Op::none, Op::transpose, 4, 3, 3), std::logic_error);
  EXPECT_THROW(product(Op::none, Op::none, 4, 3, 2), std::logic_error);
}

struct Groups {
  std::vector<Index> offset;
  Index n, k;
};
std::vector<Groups> const kGroups = {
    {{0}, 3, 2}, {{0, 0, 0}, 3, 2}, {{0, 1}, 1, 1}, {{0, 5, 5, 12, 13}, 7, 9}, {{0, 70, 70, 201}, 65, 80}};

TYPED_TEST(Gemm, Grouped) {
  using T = TypeParam;
  Exec const exec;
  for (auto const& [offset, n, k] : kGroups)
    for (Op const op : {Op::none, Op::transpose})
      for (double const beta : {0.0, 1.0}) {
        Index const E = static_cast<Index>(offset.size()) - 1, rows = offset.back();
        Index const lda = k + 2, ldb = (op == Op::none ? n : k) + 1, ldc = n + 3,
                    b_rows = op == Op::none ? k : n;
        Index const stride = b_rows * ldb + 5;
        auto const A = random_view<T>(rows * lda, 6), B = random_view<T>(E * stride, 7),
                   C = random_view<T>(rows * ldc, 8);
        auto const before = to_host(C);
        grouped_gemm<T>(exec, E, offset.data(), op, n, k, T(0.5), A.data(), lda, B.data(), ldb, stride,
                        T(beta), C.data(), ldc);
        exec.fence();
        auto const ha = to_host(A), hb = to_host(B), hc = to_host(C);
        for (Index e = 0; e < E; ++e) {
          std::vector<T> const be(hb.begin() + e * stride, hb.begin() + (e + 1) * stride);
          for (Index r = offset[e]; r < offset[e + 1]; ++r)
            for (Index j = 0; j < n; ++j) {
              double want = beta * before[r * ldc + j];
              for (Index l = 0; l < k; ++l) want += 0.5 * ha[r * lda + l] * element(be, op, ldb, l, j);
              ASSERT_NEAR(hc[r * ldc + j], want, tolerance<T>(k, 0.5, beta))
                  << "group " << e << ", row " << r;
            }
        }
      }
}

TYPED_TEST(Gemm, GroupedTransposed) {
  using T = TypeParam;
  Exec const exec;
  for (auto const& [offset, n, m] : kGroups)
    for (double const beta : {0.0, 1.0}) {
      Index const E = static_cast<Index>(offset.size()) - 1, rows = offset.back();
      Index const lda = m + 2, ldb = n + 1, ldc = n + 3, stride = m * ldc + 4;
      auto const A = random_view<T>(rows * lda, 9), B = random_view<T>(rows * ldb, 10),
                 C = random_view<T>(E * stride, 11);
      auto const before = to_host(C);
      grouped_gemm_transposed<T>(exec, E, offset.data(), m, n, T(0.5), A.data(), lda, B.data(), ldb, T(beta),
                                 C.data(), ldc, stride);
      exec.fence();
      auto const ha = to_host(A), hb = to_host(B), hc = to_host(C);
      for (Index e = 0; e < E; ++e)
        for (Index i = 0; i < m; ++i)
          for (Index j = 0; j < n; ++j) {
            double want = beta * before[e * stride + i * ldc + j];
            for (Index r = offset[e]; r < offset[e + 1]; ++r) want += 0.5 * ha[r * lda + i] * hb[r * ldb + j];
            ASSERT_NEAR(hc[e * stride + i * ldc + j], want,
                        tolerance<T>(offset[e + 1] - offset[e], 0.5, beta))
                << "group " << e << ", element " << i << ", " << j;
          }
    }
}

TYPED_TEST(Gemm, FallingOffsetsThrow) {
  using T = TypeParam;
  Exec const exec;
  View1<T> const x("x", 100);
  std::vector<Index> const offset = {0, 5, 3};
  EXPECT_THROW(grouped_gemm<T>(exec, 2, offset.data(), Op::none, 2, 2, T(1), x.data(), 2, x.data() + 20, 2, 4,
                               T(0), x.data() + 50, 2),
               std::logic_error);
}

}  // namespace
}  // namespace upit::test
