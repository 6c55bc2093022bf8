// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the rank grid.
#include "upit/comm/rank_grid.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upit {
namespace {

TEST(RankGrid, PutsEveryRankOnTheDataAxis) {
  auto const world = Communicator::world();
  RankGrid const grid(world, 1);
  EXPECT_EQ(grid.data().size(), world.size());
  EXPECT_EQ(grid.data().rank(), world.rank());
  EXPECT_EQ(grid.expert().size(), 1);
  EXPECT_EQ(grid.expert().rank(), 0);
  EXPECT_EQ(grid.data().sum(Index{1}), world.size());
}

TEST(RankGrid, RefusesAnExpertAxisInASentenceOnEveryRank) {
  auto const world = Communicator::world();
  for (Index const expert : {0, 2, -1}) {
    try {
      RankGrid const grid(world, expert);
      FAIL() << expert << " was accepted";
    } catch (AgreedError const& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr("parallel.expert = " + std::to_string(expert) + ": only 1"));
    }
  }
}

}  // namespace
}  // namespace upit
