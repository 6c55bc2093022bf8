// SPDX-License-Identifier: Apache-2.0
// Owns the tests of what the rank grid decides without communication.
#include "upit/comm/rank_grid.hpp"

#include <gtest/gtest.h>

#include <string>

namespace upit {
namespace {

using Ranges = std::vector<Index>;

TEST(ExpertRanges, DifferByOneAtMost) {
  EXPECT_EQ(expert_ranges(8, 1), (Ranges{0, 8}));
  EXPECT_EQ(expert_ranges(8, 4), (Ranges{0, 2, 4, 6, 8}));
  EXPECT_EQ(expert_ranges(5, 2), (Ranges{0, 2, 5}));
  EXPECT_EQ(expert_ranges(3, 4), (Ranges{0, 0, 1, 2, 3}));
  EXPECT_EQ(expert_ranges(1, 4), (Ranges{0, 0, 0, 0, 1}));
  EXPECT_EQ(expert_ranges(0, 2), (Ranges{0, 0, 0}));
  EXPECT_THROW((void)expert_ranges(4, 0), std::logic_error);
  EXPECT_THROW((void)expert_ranges(-1, 2), std::logic_error);
}

std::string refusal(Index ranks, Index expert) {
  try {
    check_rank_grid(ranks, expert);
  } catch (AgreedError const& e) {
    return e.what();
  }
  return "";
}

TEST(RankGridCheck, NamesTheDivisors) {
  for (Index const expert : {1, 2, 3, 4, 6, 12}) EXPECT_EQ(refusal(12, expert), "");
  EXPECT_EQ(
      refusal(12, 5),
      "parallel.expert: found 5, allowed with 12 ranks: 1, 2, 3, 4, 6, 12 (it divides the number of ranks)");
  EXPECT_EQ(refusal(1, 2),
            "parallel.expert: found 2, allowed with 1 rank: 1 (it divides the number of ranks)");
  for (Index const expert : {0, -1, -2, 8}) EXPECT_NE(refusal(4, expert), "");
}

}  // namespace
}  // namespace upit
