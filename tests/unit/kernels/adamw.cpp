// SPDX-License-Identifier: Apache-2.0
// Tests AdamW over several steps and the norm of gradients against plain double loops.
#include "upit/kernels/adamw.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

template <class T>
class AdamwTest : public ::testing::Test {};
TYPED_TEST_SUITE(AdamwTest, Reals);

TYPED_TEST(AdamwTest, TenSteps) {
  using T = TypeParam;
  for (Index const n : {0, 1, 77, 4095, 4096, 4097, 9000}) {
    kernels::AdamwStep step;
    step.learning_rate = 0.01;
    step.weight_decay = 0.1;
    step.gradient_scale = 0.5;
    auto const start = normal<T>(n, 1);
    auto const weight = to_view(start);
    View1<T> const first("m", n), second("v", n);
    std::vector<double> w = to_double(start), m(w.size()), v(w.size());
    for (step.step = 1; step.step <= 10; ++step.step) {
      auto const gradient = normal<T>(n, 10 + static_cast<int>(step.step));
      kernels::adamw<T>(Exec(), to_view(gradient), weight, first, second, step);
      double const t = static_cast<double>(step.step);
      for (std::size_t i = 0; i < w.size(); ++i) {  // Loshchilov and Hutter, Algorithm 2
        double const g = 0.5 * static_cast<double>(gradient[i]);
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.95 * v[i] + 0.05 * g * g;
        double const mean = m[i] / (1 - std::pow(0.9, t)), square = v[i] / (1 - std::pow(0.95, t));
        w[i] = w[i] - 0.01 * 0.1 * w[i] - 0.01 * mean / (std::sqrt(square) + 1e-8);
      }
    }
    // ten steps of a handful of roundings; weights and moments are below 5
    expect_near_all(to_vector(weight), w, 0, roundings<T>(40, 5), "weight");
    expect_near_all(to_vector(first), m, 0, roundings<T>(40, 5), "first moment");
    expect_near_all(to_vector(second), v, 0, roundings<T>(40, 5), "second moment");
  }
}

TEST(Adamw, FirstStepIsTheRateWhateverTheGradient) {
  kernels::AdamwStep step;
  step.learning_rate = 0.25;
  auto const weight = to_view(std::vector<double>{1, 1, 1});
  View1<double> const first("m", 3), second("v", 3);
  kernels::adamw<double>(Exec(), to_view(std::vector<double>{1e3, -1e-3, 0}), weight, first, second, step);
  // epsilon 1e-8 beside a gradient of 1e-3
  expect_near_all(to_vector(weight), {0.75, 1.25, 1.0}, 1e-5, 0, "weight");
}

TEST(Adamw, RefusesStepZero) {
  kernels::AdamwStep step;
  step.step = 0;
  View1<float> const x("x", 3);
  EXPECT_THROW(kernels::adamw<float>(Exec(), x, x, x, x, step), std::logic_error);
}

TYPED_TEST(AdamwTest, SquaredNorm) {
  using R = TypeParam;
  for (Index const n : {0, 1, 4095, 4096, 4097, 50000}) {
    auto const x = normal<R>(n, 3);
    double expected = 0;
    for (R const v : x) expected += static_cast<double>(v) * static_cast<double>(v);
    auto const blocks =
        to_view(std::vector<double>(static_cast<std::size_t>(kernels::squared_norm_blocks(n)), 7.0));
    double const found = kernels::squared_norm<R>(Exec(), to_view(x), blocks);
    EXPECT_NEAR(found, expected, 1e-12 * expected);
    EXPECT_EQ(found, kernels::squared_norm<R>(Exec(), to_view(x), blocks));
  }
}

TEST(Adamw, SquaredNormNeitherOverflowsNorHidesNan) {
  View1<double> const blocks("b", 2);
  EXPECT_NEAR(kernels::squared_norm<float>(Exec(), to_view(std::vector<float>(5000, 1e30f)), blocks), 5e63,
              1e58);
  std::vector<float> x(5000, 1.0f);
  x[4999] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(kernels::squared_norm<float>(Exec(), to_view(x), blocks)));
}

TEST(Adamw, SquaredNormRefusesTooLittleScratch) {
  EXPECT_THROW(kernels::squared_norm<float>(Exec(), View1<float>("x", 4097), View1<double>("b", 1)),
               std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
