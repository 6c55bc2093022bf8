// SPDX-License-Identifier: Apache-2.0
// Owns tests of the learning rate over the steps of a stage.
#include "upit/train/schedule.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "upit/core/error.hpp"

namespace upit {
namespace {

TEST(Schedule, ConstantAfterTheWarmUp) {
  for (Index s = 0; s < 7; ++s) EXPECT_EQ(learning_rate("constant", 2e-4, 0.0, s, 7), 2e-4);
  // A warm-up over 4 of 20 steps: a quarter, a half, three quarters, all.
  for (Index s = 0; s < 20; ++s) {
    double const want = s < 4 ? 0.25 * static_cast<double>(s + 1) : 1.0;
    EXPECT_DOUBLE_EQ(learning_rate("constant", 1.0, 0.2, s, 20), want) << s;
  }
}

TEST(Schedule, CosineFromThePeakToATenth) {
  Index const steps = 100;
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 3.0, 0.0, 0, steps), 3.0);
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 3.0, 0.0, 50, steps), 3.0 * 0.55);
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 3.0, 0.0, steps, steps), 0.3);
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 3.0, 0.0, 25, steps),
                   3.0 * (0.1 + 0.45 * (1.0 + std::cos(std::numbers::pi / 4.0))));
  for (Index s = 1; s < steps; ++s) {
    EXPECT_LT(learning_rate("cosine", 3.0, 0.0, s, steps), learning_rate("cosine", 3.0, 0.0, s - 1, steps));
  }
}

TEST(Schedule, CosineStartsWhereTheWarmUpEnds) {
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 1.0, 0.1, 0, 100), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 1.0, 0.1, 9, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 1.0, 0.1, 10, 100), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate("cosine", 1.0, 0.1, 55, 100), 0.55);
}

TEST(Schedule, FewStepsAndOtherNames) {
  for (char const* name : {"constant", "cosine"}) {
    for (Index const steps : {0, 1, 2}) {
      for (double const warmup : {0.0, 0.03, 1.0}) {
        double const rate = learning_rate(name, 1.0, warmup, 0, steps);
        EXPECT_TRUE(rate > 0.0 && rate <= 1.0) << name << " " << steps << " " << warmup << ": " << rate;
      }
    }
  }
  try {
    learning_rate("linear", 1.0, 0.0, 0, 10);
    ADD_FAILURE() << "no error";
  } catch (Error const& e) {
    EXPECT_THAT(e.what(), ::testing::AllOf(::testing::HasSubstr("linear"), ::testing::HasSubstr("cosine")));
  }
}

}  // namespace
}  // namespace upit
