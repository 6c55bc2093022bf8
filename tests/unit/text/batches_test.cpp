// SPDX-License-Identifier: Apache-2.0
// Owns the tests of running order, packing and the deal to ranks.
#include "upit/text/batches.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "upit/core/random.hpp"

namespace upit {
namespace {

using ::testing::ElementsAre;

/// `count` samples of 4 to 43 input tokens.
TokenStore make_store(Index count) {
  TokenStore store;
  store.domains = {"d"};
  RandomKey const key = random_key(9, "test lengths");
  for (Index i = 0; i < count; ++i) {
    std::vector<int> const tokens(5 + random_below(key, static_cast<std::uint64_t>(i), 40),
                                  static_cast<int>(i));
    store.append(tokens, 2, 0);
  }
  return store;
}

Index length_of(TokenStore const& store, Sequence const& sequence) {
  Index length = 0;
  for (Index const i : sequence.samples) length += store.input_tokens(i);
  return length;
}

/// Sequences of a micro-step whatever the rank, sorted.
std::vector<std::vector<Index>> content(MicroStep const& micro) {
  std::vector<std::vector<Index>> all;
  for (auto const& sequences : micro.per_rank)
    for (Sequence const& s : sequences) all.push_back(s.samples);
  std::sort(all.begin(), all.end());
  return all;
}

std::vector<Index> samples_in(std::vector<MicroStep> const& micro_steps) {
  std::vector<Index> all;
  for (MicroStep const& m : micro_steps)
    for (auto const& s : content(m)) all.insert(all.end(), s.begin(), s.end());
  std::sort(all.begin(), all.end());
  return all;
}

TEST(EpochOrder, IsAPermutationBySeedAndEpoch) {
  for (Index const n : {Index{0}, Index{1}, Index{2}, Index{1001}}) {
    std::vector<Index> order = epoch_order(n, 3, 0);
    std::sort(order.begin(), order.end());
    std::vector<Index> expected(static_cast<std::size_t>(n));
    std::iota(expected.begin(), expected.end(), Index{0});
    EXPECT_EQ(order, expected);
  }
  EXPECT_EQ(epoch_order(100, 3, 5), epoch_order(100, 3, 5));
  EXPECT_NE(epoch_order(100, 3, 5), epoch_order(100, 3, 6));
  EXPECT_NE(epoch_order(100, 3, 5), epoch_order(100, 4, 5));
}

TEST(Packing, IsFirstFitAndLosesNothing) {
  TokenStore store;
  store.domains = {"d"};
  for (int const length : {6, 5, 4, 3, 10, 1})
    store.append(std::vector<int>(static_cast<std::size_t>(length) + 1, 0), 1, 0);
  std::vector<Index> const order = {0, 1, 2, 3, 4, 5};
  std::vector<Sequence> const packed = pack_first_fit(store, order, 10);
  ASSERT_EQ(packed.size(), 3u);
  EXPECT_THAT(packed[0].samples, ElementsAre(0, 2));     // 6 + 4
  EXPECT_THAT(packed[1].samples, ElementsAre(1, 3, 5));  // 5 + 3 + 1
  EXPECT_THAT(packed[2].samples, ElementsAre(4));
  EXPECT_TRUE(pack_first_fit(store, {}, 10).empty());
  EXPECT_THROW(pack_first_fit(store, order, 9), std::logic_error);

  TokenStore const many = make_store(200);
  std::vector<Index> const all = epoch_order(200, 1, 0);
  std::vector<int> seen(200, 0);
  for (Sequence const& s : pack_first_fit(many, all, 64)) {
    EXPECT_LE(length_of(many, s), 64);
    for (Index const i : s.samples) ++seen[static_cast<std::size_t>(i)];
  }
  EXPECT_THAT(seen, ::testing::Each(1));
}

TEST(BatchPlan, EverySampleOncePerEpoch) {
  TokenStore const store = make_store(96);
  for (bool const packing : {false, true}) {
    BatchPlan const plan(store, 64, packing, 16, 5, 7);
    EXPECT_EQ(plan.steps(1.0), 6);
    for (Index epoch = 0; epoch < 3; ++epoch) {
      std::vector<int> seen(96, 0);
      for (Index k = epoch * 6; k < (epoch + 1) * 6; ++k)
        for (Index const i : samples_in(plan.step(k, 0, 2, false))) ++seen[static_cast<std::size_t>(i)];
      EXPECT_THAT(seen, ::testing::Each(1)) << "epoch " << epoch;
    }
  }
}

TEST(BatchPlan, CrossesEpochsAndGoesOnWhereAStageStopped) {
  TokenStore const store = make_store(10);
  BatchPlan const plan(store, 64, false, 7, 7, 3);
  std::vector<Index> running;
  for (Index epoch = 0; epoch < 5; ++epoch)
    for (Index const i : epoch_order(10, 3, epoch)) running.push_back(i);
  for (Index k = 0; k < 7; ++k) {
    std::vector<Index> const expected(running.begin() + k * 7, running.begin() + (k + 1) * 7);
    EXPECT_EQ(plan.step_samples(k, 0), expected);
  }
  EXPECT_EQ(plan.step_samples(1, 20), std::vector<Index>(running.begin() + 27, running.begin() + 34));
  EXPECT_EQ(plan.step_samples(0, 0), std::vector<Index>(running.begin(), running.begin() + 7));  // back again
  // A batch above the set goes round more than once.
  BatchPlan const round(store, 64, false, 25, 25, 3);
  EXPECT_EQ(round.step_samples(0, 0), std::vector<Index>(running.begin(), running.begin() + 25));
  EXPECT_EQ(plan.steps(2.0), 3);
  EXPECT_EQ(plan.steps(0.0), 0);
  EXPECT_EQ(plan.steps(0.001), 1);
  EXPECT_EQ(plan.samples_seen(3), 21);
}

TEST(BatchPlan, MicroStepsHoldTheSameForEveryRankCount) {
  TokenStore const store = make_store(100);
  for (bool const packing : {false, true})
    for (Index k = 0; k < 8; ++k) {
      BatchPlan const plan(store, 64, packing, 33, 6, 11);
      std::vector<MicroStep> const one = plan.step(k, 5, 1, false);
      Index targets = 0, tokens = 0;
      for (Index const i : plan.step_samples(k, 5)) {
        targets += store.targets(i, false);
        tokens += store.input_tokens(i);
      }
      Index dealt_targets = 0, dealt_tokens = 0;
      for (MicroStep const& m : one) {
        dealt_targets += m.targets;
        dealt_tokens += m.tokens;
        EXPECT_LE(m.per_rank[0].size(), 6u);
      }
      EXPECT_EQ(dealt_targets, targets);
      EXPECT_EQ(dealt_tokens, tokens);
      EXPECT_EQ(samples_in(one).size(), 33u);

      for (int const ranks : {2, 4, 7}) {  // 7 ranks for 6 sequences: one has none
        std::vector<MicroStep> const more = plan.step(k, 5, ranks, false);
        ASSERT_EQ(more.size(), one.size());
        for (std::size_t m = 0; m < one.size(); ++m) {
          ASSERT_EQ(more[m].per_rank.size(), static_cast<std::size_t>(ranks));
          EXPECT_EQ(content(more[m]), content(one[m]));
          EXPECT_EQ(more[m].targets, one[m].targets);
          EXPECT_EQ(more[m].tokens, one[m].tokens);
          for (auto const& sequences : more[m].per_rank) {
            Index load = 0;
            for (Sequence const& s : sequences) load += length_of(store, s);
            EXPECT_LE(load, plan.max_tokens_per_rank(ranks));
          }
        }
      }
      EXPECT_EQ(content(plan.step(k, 5, 4, false)[0]), content(one[0]));  // asked again: the same
    }
}

TEST(BatchPlan, LoadsBalance) {
  TokenStore const store = make_store(256);
  BatchPlan const plan(store, 64, false, 64, 64, 2);
  for (Index k = 0; k < 4; ++k)
    for (int const ranks : {2, 4}) {
      MicroStep const micro = plan.step(k, 0, ranks, true)[0];
      EXPECT_EQ(micro.targets, micro.tokens);
      Index most = 0;
      for (auto const& sequences : micro.per_rank) {
        Index load = 0;
        for (Sequence const& s : sequences) load += length_of(store, s);
        most = std::max(most, load);
      }
      EXPECT_LE(static_cast<double>(most), 1.03 * static_cast<double>(micro.tokens) / ranks);
    }
}

TEST(BatchPlan, OverPartOfAStore) {
  TokenStore const store = make_store(50);
  std::vector<Index> const subset = {3, 7, 8, 20, 41};
  BatchPlan const plan(store, subset, 64, false, 5, 2, 1);
  EXPECT_EQ(plan.samples(), 5);
  EXPECT_EQ(samples_in(plan.step(3, 0, 2, false)), subset);
  EXPECT_EQ(plan.step(0, 0, 2, false).size(), 3u);  // 2 + 2 + 1
  BatchPlan const none(store, std::vector<Index>{}, 64, false, 5, 2, 1);
  EXPECT_EQ(none.steps(2.0), 0);
  EXPECT_THROW(none.step(0, 0, 1, false), std::logic_error);
  EXPECT_THROW(BatchPlan(store, 10, false, 5, 2, 1), std::logic_error);  // samples above the context
}

TEST(Evaluation, FixedBlocksInOrder) {
  TokenStore const store = make_store(11);
  for (int const ranks : {1, 2, 4}) {
    std::vector<MicroStep> const blocks = evaluation_steps(store, 4, ranks, false);
    ASSERT_EQ(blocks.size(), 3u);
    EXPECT_EQ(content(blocks[0]), (std::vector<std::vector<Index>>{{0}, {1}, {2}, {3}}));
    EXPECT_EQ(content(blocks[2]), (std::vector<std::vector<Index>>{{8}, {9}, {10}}));
  }
  EXPECT_TRUE(evaluation_steps(TokenStore{}, 4, 2, false).empty());
  std::vector<Index> const chosen = {9, 1};
  EXPECT_EQ(samples_in(evaluation_steps(store, chosen, 4, 3, false)), (std::vector<Index>{1, 9}));
}

}  // namespace
}  // namespace upit
