// SPDX-License-Identifier: Apache-2.0
// Owns tests of the way from planned sequences to tokens, targets, positions and segments.
#include "upit/train/batch_builder.hpp"

#include <gtest/gtest.h>

#include "support/tiny_data.hpp"

namespace upit::test {
namespace {

using Ints = std::vector<int>;

TokenStore two_samples() {
  TokenStore store;
  store.domains = {"only"};
  store.append(Ints{10, 11, 12, 13, 14}, 3, 0);
  store.append(Ints{20, 21, 22}, 1, 0);
  store.append(Ints{30, 31}, 0, 0);
  return store;
}

TEST(BuildBatch, PositionTPredictsTokenTPlusOne) {
  TokenStore const store = two_samples();
  std::vector<Sequence> const sequences = {{{1, 0}}, {{2}}};
  HostBatch batch;
  batch.append(Ints{1}, Ints{2}, 7);  // whatever was there goes
  build_batch(store, sequences, false, true, batch);
  EXPECT_EQ(batch.token, (Ints{20, 21, 10, 11, 12, 13, 30}));
  EXPECT_EQ(batch.target, (Ints{21, 22, -1, -1, 13, 14, 31}));
  EXPECT_EQ(batch.position, (Ints{0, 1, 0, 1, 2, 3, 0}));
  EXPECT_EQ(batch.start, (std::vector<Index>{0, 2, 6, 7}));
  EXPECT_EQ(batch.sample, (std::vector<std::uint64_t>{1, 1, 0, 0, 0, 0, 2}));
}

TEST(BuildBatch, LossOnAllAndOnNothing) {
  TokenStore const store = two_samples();
  std::vector<Sequence> const sequences = {{{0}}};
  HostBatch batch;
  build_batch(store, sequences, true, true, batch);
  EXPECT_EQ(batch.target, (Ints{11, 12, 13, 14}));
  build_batch(store, sequences, true, false, batch);
  EXPECT_EQ(batch.token, (Ints{10, 11, 12, 13}));
  EXPECT_EQ(batch.target, (Ints{-1, -1, -1, -1}));
}

TEST(BuildBatch, NoSequencesGiveAnEmptyBatch) {
  HostBatch batch;
  batch.append(Ints{1}, Ints{2}, 7);
  build_batch(two_samples(), {}, false, true, batch);
  EXPECT_EQ(batch.tokens(), 0);
  EXPECT_EQ(batch.segments(), 0);
  EXPECT_EQ(batch.targets(), 0);
}

TEST(BuildBatch, CountsAreThoseOfThePlan) {
  TokenStore const store = tiny_store(20, 50, 2, 12);
  for (bool const packing : {false, true}) {
    for (bool const all : {false, true}) {
      BatchPlan const plan(store, 20, packing, 7, 2, 3);
      for (auto const& micro : plan.step(1, 5, 3, all)) {
        Index tokens = 0, targets = 0;
        for (auto const& sequences : micro.per_rank) {
          HostBatch batch;
          build_batch(store, sequences, all, true, batch);
          tokens += batch.tokens();
          targets += batch.targets();
          EXPECT_LE(batch.tokens(), plan.max_tokens_per_rank(3));
        }
        EXPECT_EQ(tokens, micro.tokens);
        EXPECT_EQ(targets, micro.targets);
      }
    }
  }
}

}  // namespace
}  // namespace upit::test
