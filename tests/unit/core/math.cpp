// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the fast exponential.
#include "upit/core/math.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using Limits = std::numeric_limits<float>;

/// The loop as kernels write it: vectorised, with a rest at the end.
std::vector<float> exponentials(std::vector<float> const& x) {
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = upit::fast_exp(x[i]);
  return y;
}

TEST(FastExp, StaysWithinTwoUlpOfDoubleWhereverTheResultIsNormal) {
  // Every 211th float of both signs up to 104: a prime, so that all low bits occur.
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits < 0x42d00000U; bits += 211) {
    float value = 0.0f;
    std::memcpy(&value, &bits, sizeof(value));
    x.push_back(value);
    x.push_back(-value);
  }
  std::vector<float> const y = exponentials(x);
  double worst = 0.0;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double const exact = std::exp(static_cast<double>(x[i]));
    if (exact < static_cast<double>(Limits::min()) * (1.0 - 1e-9)) {
      wrong += y[i] != 0.0f ? 1 : 0;
    } else if (exact >= static_cast<double>(Limits::max()) * (1.0 + 1e-7)) {
      wrong += y[i] != Limits::infinity() ? 1 : 0;
    } else {
      int exponent = 0;
      std::frexp(exact, &exponent);
      double const ulp = std::ldexp(1.0, exponent - 24);
      worst = std::max(worst, std::abs(static_cast<double>(y[i]) - exact) / ulp);
    }
  }
  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(wrong, 0U);
}

TEST(FastExp, TurnsAtTheEdgesWhereTheResultTurns) {
  float const top = 88.7228317f;
  float const bottom = -87.3365402f;
  EXPECT_TRUE(std::isfinite(upit::fast_exp(top)));
  EXPECT_EQ(upit::fast_exp(std::nextafter(top, 100.0f)), Limits::infinity());
  EXPECT_GE(upit::fast_exp(bottom), Limits::min());
  EXPECT_EQ(upit::fast_exp(std::nextafter(bottom, -100.0f)), 0.0f);
}

TEST(FastExp, KeepsTheSpecialValues) {
  float const inf = Limits::infinity();
  std::vector<float> const y =
      exponentials({0.0f, -0.0f, inf, -inf, Limits::max(), Limits::lowest(), Limits::quiet_NaN(),
                    -Limits::quiet_NaN(), Limits::denorm_min(), -Limits::min(), 1e30f, -1e30f});
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_EQ(y[1], 1.0f);
  EXPECT_EQ(y[2], inf);
  EXPECT_EQ(y[3], 0.0f);
  EXPECT_EQ(y[4], inf);
  EXPECT_EQ(y[5], 0.0f);
  EXPECT_TRUE(std::isnan(y[6]));
  EXPECT_TRUE(std::isnan(y[7]));
  EXPECT_EQ(y[8], 1.0f);
  EXPECT_EQ(y[9], 1.0f);
  EXPECT_EQ(y[10], inf);
  EXPECT_EQ(y[11], 0.0f);
}

TEST(FastExp, IsTheCLibraryInDouble) {
  for (double x = -700.0; x < 700.0; x += 0.37) EXPECT_EQ(upit::fast_exp(x), std::exp(x));
}

}  // namespace
