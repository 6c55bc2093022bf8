// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/buckets.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "upit/core/random.hpp"

namespace upit::upcycle {
namespace {

std::vector<double> random_scores(Index seeds, Index experts, std::uint64_t seed, bool coarse) {
  RandomKey const key = random_key(seed, "test scores");
  std::vector<double> score;
  for (Index i = 0; i < seeds * experts; ++i) {
    double const u = random_uniform(key, static_cast<std::uint64_t>(i));
    score.push_back(coarse ? static_cast<double>(static_cast<int>(4.0 * u)) : u);  // coarse: many ties
  }
  return score;
}

/// Algorithm 3 as printed: for each sample look for the expert of lowest perplexity; add the sample if the
/// bucket holds fewer than C. `next`: the Break stands inside the if, so full experts are passed over.
std::vector<Index> literal(std::vector<double> const& score, Index experts, Index capacity, bool next) {
  std::vector<Index> size(static_cast<std::size_t>(experts), 0), chosen;
  for (std::size_t first = 0; first < score.size(); first += static_cast<std::size_t>(experts)) {
    std::set<Index> tried;
    Index got = -1;
    while (static_cast<Index>(tried.size()) < experts) {
      Index best = -1;
      for (Index e = 0; e < experts; ++e) {
        if (tried.count(e) > 0) continue;
        if (best < 0 ||
            score[first + static_cast<std::size_t>(e)] < score[first + static_cast<std::size_t>(best)])
          best = e;
      }
      tried.insert(best);
      if (size[static_cast<std::size_t>(best)] < capacity) {
        ++size[static_cast<std::size_t>(best)];
        got = best;
        break;
      }
      if (!next) break;
    }
    chosen.push_back(got);
  }
  return chosen;
}

struct Case {
  Index seeds, experts, capacity;
  bool next, coarse;
};

class Assignment : public ::testing::TestWithParam<Case> {};

TEST_P(Assignment, FollowsAlgorithm3) {
  Case const c = GetParam();
  auto const score = random_scores(c.seeds, c.experts, 3, c.coarse);
  Buckets const b = assign_buckets(score, c.experts, {c.capacity, !c.next, false});
  auto const expected = literal(score, c.experts, c.capacity, c.next);
  EXPECT_EQ(b.expert_of, expected);
  EXPECT_EQ(b.dropped, std::count(expected.begin(), expected.end(), -1));
  Index members = 0, first = 0;
  for (Index e = 0; e < c.experts; ++e) {
    auto const& m = b.members[static_cast<std::size_t>(e)];
    EXPECT_LE(static_cast<Index>(m.size()), c.capacity);
    EXPECT_TRUE(std::is_sorted(m.begin(), m.end()));
    for (Index const s : m) EXPECT_EQ(b.expert_of[static_cast<std::size_t>(s)], e);
    members += static_cast<Index>(m.size());
    first += b.first_choices[static_cast<std::size_t>(e)];
  }
  EXPECT_EQ(members + b.dropped, c.seeds);
  EXPECT_EQ(first, c.seeds);
}

INSTANTIATE_TEST_SUITE_P(Cases, Assignment,
                         ::testing::Values(Case{0, 3, 1, true, false}, Case{1, 1, 1, true, false},
                                           Case{41, 5, 9, true, false}, Case{41, 5, 9, false, false},
                                           Case{41, 5, 9, true, true}, Case{41, 5, 9, false, true},
                                           Case{41, 5, 3, true, false},  // too few places: some are dropped
                                           Case{41, 5, 41, true, true}, Case{600, 8, 75, true, true}));

TEST(Buckets, TiesGoToTheLowerExpert) {
  Buckets const b = assign_buckets(std::vector<double>{1, 1, 1, 1, 1, 1, 2, 1, 1}, 3, {1, false, false});
  EXPECT_EQ(b.expert_of, (std::vector<Index>{0, 1, 2}));
  EXPECT_EQ(b.first_choices, (std::vector<Index>{2, 1, 0}));
}

TEST(Buckets, OverflowHasTwoReadings) {
  std::vector<double> const score = {0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0};  // expert 0 first, three times
  EXPECT_EQ(assign_buckets(score, 2, {2, false, false}).expert_of, (std::vector<Index>{0, 0, 1, 1}));
  Buckets const dropping = assign_buckets(score, 2, {2, true, false});
  EXPECT_EQ(dropping.expert_of, (std::vector<Index>{0, 0, -1, 1}));
  EXPECT_EQ(dropping.dropped, 1);
}

TEST(Buckets, CentringTakesAnExpertsMeanOff) {
  // Expert 0 is better everywhere, by much on samples 0 and 1 and by little on 2 and 3.
  std::vector<double> const score = {0.0, 4.0, 0.0, 4.0, 3.0, 4.0, 3.0, 4.0};
  EXPECT_EQ(assign_buckets(score, 2, {4, false, false}).expert_of, (std::vector<Index>{0, 0, 0, 0}));
  Buckets const centred = assign_buckets(score, 2, {4, false, true});
  EXPECT_EQ(centred.expert_of, (std::vector<Index>{0, 0, 1, 1}));
  EXPECT_DOUBLE_EQ(centred.margin, 1.5);  // -1.5 against 0, and 1.5 against 0
}

TEST(Buckets, MarginsCompareBestAndSecondBest) {
  // (1, 3, 7), (5, 4, 9), (1, 2, 3): first choices 0, 1, 0; with C = 1 the last goes to expert 2.
  std::vector<double> const score = {1, 3, 7, 5, 4, 9, 1, 2, 3};
  Buckets const b = assign_buckets(score, 3, {1, false, false});
  EXPECT_EQ(b.expert_of, (std::vector<Index>{0, 1, 2}));
  EXPECT_DOUBLE_EQ(b.margin, (2.0 + 1.0 + 1.0) / 3.0);
  EXPECT_EQ(b.own_margin, (std::vector<double>{2.0, 1.0, -2.0}));
}

TEST(Buckets, CapacityIsAnEvenShareUnlessGiven) {
  EXPECT_EQ(bucket_capacity(500, 8, 0), 63);
  EXPECT_EQ(bucket_capacity(504, 8, 0), 63);
  EXPECT_EQ(bucket_capacity(0, 8, 0), 0);
  EXPECT_EQ(bucket_capacity(500, 8, 7), 7);
}

TEST(Buckets, RandomOnesHaveTheSameSizes) {
  Buckets const b = random_buckets(11, 4, 3);
  std::vector<std::size_t> sizes;
  for (auto const& m : b.members) sizes.push_back(m.size());
  EXPECT_EQ(sizes, (std::vector<std::size_t>{3, 3, 3, 2}));
  EXPECT_EQ(b.dropped, 0);
  EXPECT_EQ(random_buckets(11, 4, 2).dropped, 3);
  EXPECT_TRUE(b.first_choices.empty());
}

TEST(SeedSet, HasItsSizeAndIsKeyedBySeed) {
  EXPECT_EQ(seed_set(6300, 0.01, 1, 1).size(), 63U);
  EXPECT_EQ(seed_set(6301, 0.01, 1, 1).size(), 64U);
  EXPECT_EQ(seed_set(6300, 0.01, 500, 1).size(), 500U);
  auto const all = seed_set(300, 0.01, 500, 1);
  EXPECT_EQ(std::set<Index>(all.begin(), all.end()).size(), 300U);
  EXPECT_FALSE(std::is_sorted(all.begin(), all.end()));
  auto const small = seed_set(6300, 0.0, 100, 1), large = seed_set(6300, 0.0, 200, 1);
  EXPECT_TRUE(std::equal(small.begin(), small.end(), large.begin()));
  EXPECT_EQ(seed_set(6300, 0.0, 100, 1), small);
  EXPECT_NE(seed_set(6300, 0.0, 100, 2), small);
}

}  // namespace
}  // namespace upit::upcycle
