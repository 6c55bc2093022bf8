// SPDX-License-Identifier: Apache-2.0
// Owns the check that training does not depend on how many ranks share it.
#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_training.hpp"

namespace upit::test {
namespace {

class Training : public ::testing::TestWithParam<TrainingCase> {};

void expect_near(std::vector<double> const& found, std::vector<double> const& expected, double tolerance,
                 char const* what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], tolerance * std::max(1.0, std::abs(expected[i]))) << what << " " << i;
  }
}

TEST_P(Training, TenStepsInDoubleAreThoseOfOneRank) {
  Communicator const world = Communicator::world();
  Communicator const alone = world.split(world.rank());
  ASSERT_EQ(alone.size(), 1);
  auto const found = train<double>(world, GetParam(), 10);
  auto const expected = train<double>(alone, GetParam(), 10);
  expect_near(found.loss, expected.loss, 1e-10, "loss");
  expect_near(found.balance, expected.balance, 1e-10, "balance");
  expect_near(found.auxiliary, expected.auxiliary, 1e-10, "auxiliary");
  expect_near(found.norm, expected.norm, 1e-10, "norm");
  expect_near(found.entropy, expected.entropy, 1e-10, "entropy");
  EXPECT_EQ(found.assigned, expected.assigned);
  expect_near(found.weights, expected.weights, 1e-10, "weight");
  for (double const loss : found.loss) EXPECT_TRUE(loss > 0.0 && loss < 10.0) << loss;
  EXPECT_NE(found.loss.front(), found.loss.back());
}

TEST_P(Training, TenStepsInFloatAreThoseOfOneRank) {
  Communicator const world = Communicator::world();
  Communicator const alone = world.split(world.rank());
  auto const found = train<float>(world, GetParam(), 10);
  auto const expected = train<float>(alone, GetParam(), 10);
  for (std::size_t i = 0; i < expected.loss.size(); ++i) {
    EXPECT_NEAR(found.loss[i], expected.loss[i], 1e-5 * expected.loss[i]) << "step " << i;
  }
}

class Repeats : public ::testing::TestWithParam<TrainingCase> {};

TEST_P(Repeats, BitForBitAndTheSameOnAllRanks) {
  Communicator const world = Communicator::world();
  auto const once = train<float>(world, GetParam(), 4);
  auto const again = train<float>(world, GetParam(), 4);
  EXPECT_EQ(once.loss, again.loss);
  EXPECT_EQ(once.balance, again.balance);
  EXPECT_EQ(once.norm, again.norm);
  EXPECT_EQ(once.weights, again.weights);
  EXPECT_TRUE(world.same(
      std::string(reinterpret_cast<char const*>(once.weights.data()), once.weights.size() * sizeof(float))));
}

INSTANTIATE_TEST_SUITE_P(Cases, Training, ::testing::ValuesIn(training_cases()),
                         [](auto const& info) { return info.param.name; });

std::vector<TrainingCase> in_both_precisions() {
  std::vector<TrainingCase> list = training_cases();
  for (auto const& c : bf16_cases()) list.push_back(c);
  return list;
}
INSTANTIATE_TEST_SUITE_P(Cases, Repeats, ::testing::ValuesIn(in_both_precisions()),
                         [](auto const& info) { return info.param.name; });

// What the cases above rely on: at more ranks than sequences somebody has nothing to do.
TEST(TrainingCases, LeaveSomeRankWithoutSequences) {
  int const ranks = Communicator::world().size();
  if (ranks == 1) GTEST_SKIP() << "one rank has everything";
  TokenStore const store = tiny_store(14, 17, 2, kTrainingContext + 1);
  Index without = 0;
  for (auto const& c : training_cases()) {
    BatchPlan const plan(store, kTrainingContext, c.packing, c.batch, c.micro_batch, 4);
    for (auto const& micro : plan.step(0, 3, ranks, false)) {
      for (auto const& sequences : micro.per_rank) without += sequences.empty() ? 1 : 0;
    }
  }
  EXPECT_GT(without, 0);
}

}  // namespace
}  // namespace upit::test
