// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the matrix products: every library behind the choice, every flag, extents of 0.
#include "upit/linalg/gemm.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "products.hpp"

namespace upit::test {
namespace {

template <class T>
class Gemm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Gemm, Types);

TYPED_TEST(Gemm, AgainstPlainLoops) {
  using T = TypeParam;
  Exec const exec;
  check_products<T>([&](auto... arguments) { gemm<T>(exec, arguments...); });
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

TYPED_TEST(Gemm, Grouped) {
  for (bool const aligned : {false, true}) check_grouped<TypeParam>(aligned);
}

TYPED_TEST(Gemm, GroupedTransposed) {
  for (bool const aligned : {false, true}) check_grouped_transposed<TypeParam>(aligned);
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
