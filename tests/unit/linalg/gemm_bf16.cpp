// SPDX-License-Identifier: Apache-2.0
// Owns the tests of products of 16-bit operands: plain loops over the rounded operands are the reference.
#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>

#include "products.hpp"

namespace upit::test {
namespace {

class GemmBf16 : public ::testing::Test {
 protected:
  void SetUp() override {
    if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  }
};

TEST_F(GemmBf16, AgainstPlainLoops) {
  Exec const exec;
  check_products<bfloat16>([&](auto... arguments) { gemm<bfloat16>(exec, arguments...); });
}

TEST_F(GemmBf16, IntoFloat) {
  Exec const exec;
  check_products<bfloat16, float>([&](auto... arguments) { gemm<bfloat16>(exec, arguments...); });
}

TEST_F(GemmBf16, Grouped) {
  for (bool const aligned : {false, true}) {
    check_grouped<bfloat16>(aligned);
    check_grouped<bfloat16, float>(aligned);
  }
}

TEST_F(GemmBf16, GroupedTransposed) {
  for (bool const aligned : {false, true}) {
    check_grouped_transposed<bfloat16>(aligned);
    check_grouped_transposed<bfloat16, float>(aligned);
  }
}

// More shapes than are kept, twice: those dropped are made again and give the same bits.
TEST_F(GemmBf16, MoreShapesThanAreKept) {
  Exec const exec;
  Index const n = 24, k = 40, most = 600;
  auto const A = random_view<bfloat16>(most * k, 1), B = random_view<bfloat16>(k * n, 2);
  View1<float> const C("C", most * n), D("D", most * n);
  auto const all = [&](View1<float> const& out) {
    for (Index m = 1; m <= most; ++m) {
      gemm<bfloat16>(exec, Op::none, Op::none, m, n, k, 1, A.data(), k, B.data(), n, 0, out.data(), n);
    }
    exec.fence();
  };
  all(C);
  all(D);
  auto const c = to_host(C), d = to_host(D);
  EXPECT_EQ(std::memcmp(c.data(), d.data(), c.size() * sizeof(float)), 0);
  EXPECT_NE(c.back(), 0.0F);
}

TEST(GemmWithoutBf16, Throws) {
  if (bf16_products() != Bf16Products::none) GTEST_SKIP() << "products of bfloat16 are here";
  Exec const exec;
  View1<bfloat16> const x("x", 100);
  EXPECT_THROW(
      gemm<bfloat16>(exec, Op::none, Op::none, 2, 2, 2, 1, x.data(), 2, x.data(), 2, 0, x.data() + 50, 2),
      std::exception);
}

}  // namespace
}  // namespace upit::test
