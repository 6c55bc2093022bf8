// SPDX-License-Identifier: Apache-2.0
// Owns the check that training does not depend on how FFN experts are spread over ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "support/tiny_training.hpp"

namespace upit::test {
namespace {

struct SpreadCase {
  TrainingCase training;
  double capacity = 2.0;
  Index chunks = 1;
  bool rounds = false;  // more than one is wanted as soon as experts are spread
  ExchangePath path = ExchangePath::automatic;
};

class Experts : public ::testing::TestWithParam<SpreadCase> {};

/// Runs `check(parallel)` for every group size that divides the world.
template <class Check>
void for_groups(SpreadCase const& c, Check const& check) {
  Communicator const world = Communicator::world();
  for (Index const p : {1, 2, 4}) {
    if (world.size() % p != 0) continue;
    SCOPED_TRACE(::testing::Message() << "groups of " << p << " among " << world.size() << " ranks");
    RankGrid const grid(world, p);
    check(world, ExpertParallel{&grid, c.capacity, c.chunks, c.path});
  }
}

void expect_near(std::vector<double> const& found, std::vector<double> const& expected, char const* what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 1e-10 * std::max(1.0, std::abs(expected[i]))) << what << " " << i;
  }
}

TEST_P(Experts, TenStepsInDoubleAreThoseOfOneRank) {
  SpreadCase const& c = GetParam();
  Communicator const self = Communicator::world().split(Communicator::world().rank());
  auto const expected = train<double>(self, c.training, 10);
  for_groups(c, [&](Communicator const& world, ExpertParallel const& parallel) {
    auto const found = train<double>(world, c.training, 10, parallel);
    expect_near(found.loss, expected.loss, "loss");
    expect_near(found.balance, expected.balance, "balance");
    expect_near(found.norm, expected.norm, "norm");
    EXPECT_EQ(found.assigned, expected.assigned);
    expect_near(found.weights, expected.weights, "weight");
    if (c.rounds && parallel.spread()) {
      EXPECT_GT(world.max(found.rounds), 1) << "rounds";
    }
    if (!parallel.spread()) {
      EXPECT_EQ(found.bytes_sent, 0.0);
    } else {
      EXPECT_GT(world.sum(found.bytes_sent), 0.0);
    }
  });
  EXPECT_NE(expected.loss.front(), expected.loss.back());
}

TEST_P(Experts, RepeatsBitForBit) {
  SpreadCase const& c = GetParam();
  for_groups(c, [&](Communicator const& world, ExpertParallel const& parallel) {
    auto const once = train<float>(world, c.training, 3, parallel);
    auto const again = train<float>(world, c.training, 3, parallel);
    EXPECT_EQ(once.loss, again.loss);
    EXPECT_EQ(once.norm, again.norm);
    EXPECT_EQ(once.weights, again.weights);
    std::string bytes(once.weights.size() * sizeof(float), ' ');
    std::memcpy(bytes.data(), once.weights.data(), bytes.size());
    EXPECT_TRUE(world.same(bytes)) << "replicas differ";
  });
}

std::vector<SpreadCase> spread_cases() {
  auto const topk = RouterOrder::topk_softmax, first = RouterOrder::softmax_topk;
  Trained const all{true, true, true}, experts{false, true, true}, fixed_router{true, true, false},
      router{false, false, true};
  auto const training = [](std::string name, ExpertConfig const& e, Trained trained, Index batch = 6,
                           Index micro_batch = 3) {
    return TrainingCase{std::move(name), {tiny_model(true, 2), e, trained}, batch, micro_batch, false, 0.1};
  };
  std::vector<SpreadCase> list;
  list.push_back({training("plain", tiny_ffn_experts(8, 2, topk), all)});
  list.push_back({training("unequal_chunked", tiny_ffn_experts(5, 2, first), all), 2.0, 3});
  list.push_back({training("idle_rank", tiny_ffn_experts(3, 2, topk), all)});
  list.push_back({training("one_expert", tiny_ffn_experts(1, 1, topk), all)});
  list.push_back({training("more_experts_than_tokens", tiny_ffn_experts(200, 2, topk), all, 2, 1)});
  list.push_back({training("frozen_backbone", tiny_ffn_experts(4, 3, topk), experts)});
  list.push_back({training("router_only", tiny_ffn_experts(4, 2, topk), router)});
  list.push_back({training("small_buffers", tiny_ffn_experts(4, 2, topk), all), 0.3, 2, true});
  TrainingCase collapse = training("collapse", tiny_ffn_experts(6, 1, topk), fixed_router);
  collapse.zero_router = true;
  list.push_back({collapse, 1.0, 1, true});
  collapse.name = "collapse_chunked";
  list.push_back({collapse, 0.7, 3, true, ExchangePath::staged});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Cases, Experts, ::testing::ValuesIn(spread_cases()),
                         [](auto const& info) { return info.param.training.name; });

}  // namespace
}  // namespace upit::test
