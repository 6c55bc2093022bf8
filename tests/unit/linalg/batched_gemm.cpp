// SPDX-License-Identifier: Apache-2.0
// Owns the tests of products of many matrices: against plain loops, shared inputs, extents of 0.
#include "upit/linalg/batched_gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

struct Case {
  Index batch, m, n, k;
};
std::vector<Case> const kCases = {{0, 2, 2, 2}, {3, 0, 2, 2}, {3, 2, 3, 0},
                                  {1, 4, 5, 6}, {5, 7, 3, 9}, {4, 33, 65, 20}};

template <class T>
class BatchedGemm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(BatchedGemm, Types);

TYPED_TEST(BatchedGemm, AgainstPlainLoops) {
  using T = TypeParam;
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
            auto const va = random_values(batch * stride_a, 1, 1.0),
                       vb = random_values(shared ? rows_b * ldb : batch * stride_b, 2, 1.0),
                       before = random_values(batch * stride_c, 3, 1.0);
            auto const A = make1<T>(va), B = make1<T>(vb), C = make1<T>(before);
            if (beta == 0.0) Kokkos::deep_copy(C, std::numeric_limits<T>::quiet_NaN());  // must not be read
            batched_gemm<T>(exec, a, b, batch, m, n, k, T(alpha), {A.data(), lda, stride_a},
                            {B.data(), ldb, stride_b}, T(beta), {C.data(), ldc, stride_c});
            exec.fence();
            auto const got = to_host(C);
            // k products and sums of terms below |alpha|, and beta C below |beta|.
            double const most = std::abs(alpha) * static_cast<double>(k) + std::abs(beta);
            double const tolerance = (static_cast<double>(k) + 6) * most * rounding<T>();
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
                  ASSERT_NEAR(got[at(e)], want, tolerance)
                      << "matrix " << i << ", element " << r << ", " << c;
                }
          }
}

TYPED_TEST(BatchedGemm, WrongLeadingDimensionsThrow) {
  using T = TypeParam;
  View1<T> const x("x", 100);
  auto const product = [&](Index batch, Index lda) {
    batched_gemm<T>(Exec(), Op::none, Op::none, batch, 2, 3, 4, T(1), {x.data(), lda, 0}, {x.data(), 3, 0},
                    T(0), {x.data() + 50, 3, 6});
  };
  EXPECT_NO_THROW(product(2, 4));
  EXPECT_THROW(product(2, 3), std::logic_error);
  EXPECT_THROW(product(-1, 4), std::logic_error);
}

}  // namespace
}  // namespace upit::test
