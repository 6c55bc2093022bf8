// SPDX-License-Identifier: Apache-2.0
// Owns the check that training does not depend on how FFN experts are spread over ranks.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "mpi/io/shared_scratch.hpp"
#include "support/tiny_training.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/train/evaluation.hpp"
#include "upit/train/model_file.hpp"

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
    expect_near(found.gradient, expected.gradient, "gradient");
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

std::vector<std::string> allocated;
void note_allocation(Kokkos_Profiling_SpaceHandle, char const* label, void const*, std::uint64_t) {
  allocated.emplace_back(label);
}

TEST_P(Experts, AStepAllocatesNothing) {
  SpreadCase const& c = GetParam();
  TrainingCase const& t = c.training;
  for_groups(c, [&](Communicator const& world, ExpertParallel const& parallel) {
    TokenStore const store = tiny_store(14, t.tiny.model.vocabulary, 2, kTrainingContext + 1);
    BatchPlan const plan(store, kTrainingContext, t.packing, t.batch, t.micro_batch, 4);
    Trainer<float> trainer(world, t.tiny.model, t.tiny.expert, t.tiny.trained,
                           plan.max_tokens_per_rank(world.size()), training_options<float>(t), parallel);
    ParameterTable const whole(t.tiny.model, t.tiny.expert, t.tiny.trained);
    auto const start = random_weights<float>(whole, 5);
    if (t.zero_router) Kokkos::deep_copy(start.router, 0.0F);
    copy_held(trainer.table(), trainer.weights(), whole, start);
    trainer.step(store, plan.step(0, 0, world.size(), false), 0, kTrainingRate);
    auto const micro = plan.step(1, 0, world.size(), false);
    allocated.clear();
    Kokkos::Tools::Experimental::set_allocate_data_callback(note_allocation);
    trainer.step(store, micro, 1, kTrainingRate);
    Kokkos::Tools::Experimental::set_allocate_data_callback(nullptr);
    EXPECT_EQ(allocated, std::vector<std::string>());
  });
}

TEST_P(Experts, AnotherGridReadsTheSameFiles) {
  SpreadCase const& c = GetParam();
  ModelConfig const& model = c.training.tiny.model;
  ExpertConfig const& expert = c.training.tiny.expert;
  Communicator const all_ranks = Communicator::world();
  SharedScratch const scratch(all_ranks);
  ParameterTable const whole(model, expert, c.training.tiny.trained);
  auto const values = random_weights<float>(whole, 8);
  ModelFileInfo info;
  info.kind = "moe";
  info.model = model;
  info.expert = expert;
  for_groups(c, [&](Communicator const& world, ExpertParallel const& by) {
    ParameterTable const table(model, expert, c.training.tiny.trained, by.held(expert.count));
    Weights<float> const weights(table);
    copy_held(table, weights, whole, values);
    // Moments that tell where they belong: the gradient's layout filled from the weights.
    View1<float> const first("first", table.gradient_extent()), second("second", table.gradient_extent());
    for (auto const& t : table.tensors()) {
      if (t.gradient_offset < 0) continue;
      View1<float> const one(first.data() + t.gradient_offset, t.size());
      View1<float> const two(second.data() + t.gradient_offset, t.size());
      Kokkos::deep_copy(one, weights.tensor(t));
      kernels::add<float>(Exec(), weights.tensor(t), two);
      kernels::scale<float>(Exec(), -2.0F, two);
    }
    std::string const model_path = scratch.path("model.h5"), state_path = scratch.path("state.h5");
    write_model_file(model_path, world, info, table, weights, {true, true, true}, by.grid);
    write_state(state_path, world, info, table, weights, first, second, by.grid);
    for_groups(c, [&](Communicator const& reader, ExpertParallel const& other) {
      ParameterTable const mine(model, expert, c.training.tiny.trained, other.held(expert.count));
      Weights<float> const found(mine), wanted(mine), resumed(mine);
      copy_held(mine, wanted, whole, values);
      read_model_file(model_path, &reader, mine, found, {true, true, true});
      EXPECT_EQ(flat(found), flat(wanted));
      View1<float> const moment("first", mine.gradient_extent()), square("second", mine.gradient_extent());
      read_state(state_path, reader, mine, resumed, moment, square);
      for (auto const& t : mine.tensors()) {
        if (t.gradient_offset < 0) continue;
        EXPECT_EQ(flat<float>(resumed.tensor(t)), flat<float>(wanted.tensor(t)));
        auto twice = flat<float>(wanted.tensor(t));
        for (float& value : twice) value *= -2.0F;
        EXPECT_EQ(flat<float>(View1<float>(square.data() + t.gradient_offset, t.size())), twice);
        EXPECT_EQ(flat<float>(View1<float>(moment.data() + t.gradient_offset, t.size())),
                  flat<float>(wanted.tensor(t)));
      }
    });
  });
}

TEST_P(Experts, EvaluationIsThatOfOneRank) {
  SpreadCase const& c = GetParam();
  ModelConfig const& model = c.training.tiny.model;
  ExpertConfig const& expert = c.training.tiny.expert;
  Communicator const self = Communicator::world().split(Communicator::world().rank());
  ParameterTable const whole(model, expert);
  auto const weights = random_weights<double>(whole, 5);
  // 5 samples in blocks of 3: ranks without samples in every block.
  TokenStore const store = tiny_store(5, model.vocabulary, 2, kTrainingContext);
  EvaluationOptions options;
  options.micro_batch = 3;
  options.count_experts = true;
  auto const expected = Evaluator<double>(self, model, expert, whole).evaluate(weights, store, options);
  for_groups(c, [&](Communicator const& world, ExpertParallel const& parallel) {
    ParameterTable const table(model, expert, {}, parallel.held(expert.count));
    Weights<double> const held(table);
    copy_held(table, held, whole, weights);
    auto const found =
        Evaluator<double>(world, model, expert, table, parallel).evaluate(held, store, options);
    expect_near(found.nll, expected.nll, "nll");
    EXPECT_EQ(found.experts, expected.experts);
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
