// SPDX-License-Identifier: Apache-2.0
// Owns the checks of the bytes that kernels are said to move.
#include "upit/kernels/traffic.hpp"

#include <gtest/gtest.h>

#include <set>

namespace upit::test {
namespace {

using kernels::kernel_traffic;

kernels::KernelShape shape() {
  kernels::KernelShape s;
  s.tokens = 6;
  s.sequence = 3;
  s.width = 8;
  s.ffn = 12;
  s.vocabulary = 50;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_width = 2;
  s.experts = 5;
  s.active = 2;
  s.rank = 3;
  s.parts = 2;
  s.elements = 100;
  return s;
}

TEST(Traffic, CountsInputsAndOutputsOnce) {
  auto const s = shape();
  auto const norm = *kernel_traffic("add_rmsnorm_forward", s);
  EXPECT_DOUBLE_EQ(norm.read, 4.0 * (2 * 6 * 8 + 8));     // x, delta, weight
  EXPECT_DOUBLE_EQ(norm.written, 4.0 * (2 * 6 * 8 + 6));  // sum, y, rstd
  EXPECT_DOUBLE_EQ(norm.set, norm.moved());
  auto const swiglu = *kernel_traffic("swiglu_backward", s);  // gate and up in place
  EXPECT_DOUBLE_EQ(swiglu.moved(), 4.0 * 6 * 12 * 5);
  EXPECT_DOUBLE_EQ(swiglu.set, 4.0 * 6 * 12 * 3);
  auto const adamw = *kernel_traffic("adamw", s);
  EXPECT_DOUBLE_EQ(adamw.moved(), 28.0 * 100);
  EXPECT_DOUBLE_EQ(adamw.set, 16.0 * 100);
  auto const gate = *kernel_traffic("low_rank_gate_forward", s);
  EXPECT_DOUBLE_EQ(gate.read, 4.0 * (6 * 2 * 2 * 3 + 6 * 2 + 6 * 2));  // chosen experts, ids, gates
  EXPECT_DOUBLE_EQ(gate.written, 4.0 * 6 * 5 * 2 * 3);                 // all experts
}

TEST(Traffic, HalvesWithValuesOfTwoBytesButForSums) {
  auto s = shape();
  double const whole = kernel_traffic("rmsnorm_forward", s)->moved();
  s.value_bytes = 2;
  EXPECT_DOUBLE_EQ(kernel_traffic("rmsnorm_forward", s)->moved(), (whole - 4.0 * 6) / 2 + 4.0 * 6);
}

TEST(Traffic, CountsArithmeticThatHasAFloor) {
  auto s = shape();
  auto const ffn = kernels::kernel_arithmetic("slot_ffn_backward", s);
  EXPECT_DOUBLE_EQ(ffn.exponentials, 6.0 * 2 * 12);
  EXPECT_DOUBLE_EQ(ffn.flops, 2.0 * 5 * 3 * 6 * 2 * 12);  // gate, up and down in, two dot products out
  EXPECT_DOUBLE_EQ(kernels::kernel_arithmetic("dropout_forward", s).counters, 6.0 * 8 / 4);
  EXPECT_DOUBLE_EQ(kernels::kernel_arithmetic("cross_entropy_backward", s).exponentials, 6.0 * 50);
  s.value_bytes = 2;  // the gradient does not fit what it needs
  EXPECT_DOUBLE_EQ(kernels::kernel_arithmetic("cross_entropy_backward", s).exponentials, 2 * 6.0 * 50);
  EXPECT_DOUBLE_EQ(kernels::kernel_arithmetic("rmsnorm_forward", s).exponentials, 0.0);
}

TEST(Traffic, KnowsEveryKernelOnce) {
  std::set<std::string_view> names;
  for (auto const& kernel : kernels::kernels_with_traffic()) {
    EXPECT_TRUE(names.insert(kernel).second) << kernel << " is there twice";
    auto const t = kernel_traffic(kernel, shape());
    ASSERT_TRUE(t) << kernel;
    EXPECT_GT(t->moved(), 0.0) << kernel;
    EXPECT_LE(t->set, t->moved()) << kernel;
    EXPECT_GE(2 * t->set, t->moved()) << kernel;
  }
  EXPECT_GT(names.size(), 30u);
  EXPECT_FALSE(kernel_traffic("no_such_kernel", shape()));
}

}  // namespace
}  // namespace upit::test
