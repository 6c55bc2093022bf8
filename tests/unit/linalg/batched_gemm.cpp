// SPDX-License-Identifier: Apache-2.0
// Owns the tests of products of many matrices: against plain loops, shared inputs, extents of 0.
#include "upit/linalg/batched_gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

struct Case {
  Index batch, m, n, k;
};
std::vector<Case> const kCases = {{0, 2, 2, 2}, {3, 0, 2, 2}, {3, 2, 3, 0},
                                  {1, 4, 5, 6}, {5, 7, 3, 9}, {4, 33, 65, 20}};

/// Operands in A, results in C.
template <class A, class C>
struct Stored {
  using Operand = A;
  using Result = C;
};

template <class Types>
class BatchedGemm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::is_same_v<typename Types::Operand, bfloat16> && bf16_products() == Bf16Products::none)
      GTEST_SKIP() << "no products of bfloat16 here";
  }
};
using Types = ::testing::Types<Stored<float, float>, Stored<double, double>, Stored<bfloat16, bfloat16>,
                               Stored<bfloat16, float>>;
TYPED_TEST_SUITE(BatchedGemm, Types);

TYPED_TEST(BatchedGemm, AgainstPlainLoops) {
  using T = typename TypeParam::Operand;
  using TC = typename TypeParam::Result;
  using R = Real<T>;
  Exec const exec;
  for (auto const [batch, m, n, k] : kCases)
    for (Op const a : {Op::none, Op::transpose})
      for (Op const b : {Op::none, Op::transpose})
        for (bool const shared : {false, true})
          for (double const beta : {0.0, 1.0, -0.5}) {
            double const alpha = 1.5;
            Index const lda = (a == Op::none ? k : m) + 3, ldb = (b == Op::none ? n : k) + 1, ldc = n + 2;
            Index const rows_a = a == Op::none ? m : k, rows_b = b == Op::none ? k : n;
            Index const stride_a = rows_a * lda + 5, stride_b = shared ? 0 : rows_b * ldb,
                        stride_c = m * ldc + 1;
            auto const A = make1<T>(random_values(batch * stride_a, 1, 1.0)),
                       B = make1<T>(random_values(shared ? rows_b * ldb : batch * stride_b, 2, 1.0));
            auto const C = make1<TC>(random_values(batch * stride_c, 3, 1.0));
            auto const va = to_host(A), vb = to_host(B), before = to_host(C);  // as they were rounded
            if (beta == 0.0)
              Kokkos::deep_copy(C, TC(std::numeric_limits<float>::quiet_NaN()));  // must not be read
            batched_gemm<T, TC>(exec, a, b, batch, m, n, k, R(alpha), {A.data(), lda, stride_a},
                                {B.data(), ldb, stride_b}, R(beta), {C.data(), ldc, stride_c});
            exec.fence();
            auto const got = to_host(C);
            // k products and sums of terms below |alpha|, and beta C below |beta|.
            double const most = std::abs(alpha) * static_cast<double>(k) + std::abs(beta);
            double const sums = (static_cast<double>(k) + 6) * most * rounding<R>();
            // The one rounding of the result to TC, where that is narrower than what sums are held in.
            double const last = std::is_same_v<TC, Real<TC>> ? 0.0 : rounding<TC>();
            for (Index i = 0; i < batch; ++i)
              for (Index r = 0; r < m; ++r)
                for (Index c = 0; c < ldc; ++c) {
                  Index const e = i * stride_c + r * ldc + c;
                  if (c >= n) {  // between the rows of C nothing may change
                    ASSERT_TRUE(beta == 0.0 ? std::isnan(got[at(e)]) : got[at(e)] == before[at(e)]);
                    continue;
                  }
                  double want = beta == 0.0 ? 0.0 : beta * before[at(e)];
                  for (Index l = 0; l < k; ++l) {
                    double const x = va[at(i * stride_a + (a == Op::none ? r * lda + l : l * lda + r))];
                    double const y = vb[at(i * stride_b + (b == Op::none ? l * ldb + c : c * ldb + l))];
                    want += alpha * x * y;
                  }
                  ASSERT_NEAR(got[at(e)], want, (1.0 + last) * sums + last * std::abs(want))
                      << "matrix " << i << ", element " << r << ", " << c;
                }
          }
}

TYPED_TEST(BatchedGemm, WrongLeadingDimensionsThrow) {
  using T = typename TypeParam::Operand;
  using TC = typename TypeParam::Result;
  View1<T> const x("x", 50);
  View1<TC> const y("y", 50);
  auto const product = [&](Index batch, Index lda) {
    batched_gemm<T, TC>(Exec(), Op::none, Op::none, batch, 2, 3, 4, 1, {x.data(), lda, 0}, {x.data(), 3, 0},
                        0, {y.data(), 3, 6});
  };
  EXPECT_NO_THROW(product(2, 4));
  EXPECT_THROW(product(2, 3), std::logic_error);
  EXPECT_THROW(product(-1, 4), std::logic_error);
}

}  // namespace
}  // namespace upit::test
