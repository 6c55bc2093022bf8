// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the rank grid.
#include "upit/comm/rank_grid.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upit {
namespace {

TEST(RankGrid, CutsTheWorldIntoGroupsOfNeighbours) {
  auto const world = Communicator::world();
  for (int group = 1; group <= world.size(); group *= 2) {  // the tests run on 1, 2, 4 ranks
    RankGrid const grid(world, group);
    EXPECT_EQ(grid.expert().size(), group);
    EXPECT_EQ(grid.expert().rank(), world.rank() % group);
    EXPECT_EQ(grid.replicas().size(), world.size() / group);
    EXPECT_EQ(grid.replicas().rank(), world.rank() / group);
    // Who is in it: the sum of the members' bits.
    Index together = 0, alike = 0;
    for (int r = 0; r < world.size(); ++r) {
      if (r / group == world.rank() / group) together += Index{1} << r;
      if (r % group == world.rank() % group) alike += Index{1} << r;
    }
    EXPECT_EQ(grid.expert().sum(Index{1} << world.rank()), together);
    EXPECT_EQ(grid.replicas().sum(Index{1} << world.rank()), alike);
  }
}

TEST(RankGrid, RefusesAGroupThatDoesNotDivideTheWorldOnEveryRank) {
  auto const world = Communicator::world();
  for (Index const expert : {0, 3, -1, 2 * world.size()}) {
    try {
      RankGrid const grid(world, expert);
      FAIL() << expert << " was accepted";
    } catch (AgreedError const& e) {
      EXPECT_THAT(e.what(), testing::StartsWith("parallel.expert: found " + std::to_string(expert) +
                                                ", allowed with " + std::to_string(world.size()) + " rank"));
    }
  }
}

}  // namespace
}  // namespace upit
