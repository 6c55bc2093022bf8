// SPDX-License-Identifier: Apache-2.0
// Owns the checks of training in 16 bits: against fp32, what is held in which precision, what files hold.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "support/tiny_training.hpp"
#include "unit/io/scratch.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/train/evaluation.hpp"
#include "upit/train/model_file.hpp"

namespace upit::test {
namespace {

class Bf16Training : public ::testing::TestWithParam<TrainingCase> {
 protected:
  void SetUp() override {
    if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  }
};

double distance(std::vector<float> const& a, std::vector<float> const& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b.at(i)), 2);
  }
  return std::sqrt(sum);
}

// As in the test of the model: on its way through a layer a number is rounded 11 times, and its gradient as
// often, 3 times each around the last norm; a rounding errs by 2^-8 / sqrt(6) in the mean square, errors add
// in squares, and losses amplify them by less than 2.
double band(Index layers) {
  return 2.0 * std::sqrt(2.0 * static_cast<double>(11 * layers + 3) / 6.0) * 0x1p-8;
}

// How strongly a gradient answers to roundings depends on the case (what passes a LoRA matrix in the lowest
// layer is a difference of large numbers). Rounding the weights, in fp32, tells: that is one rounding for
// each product of a layer, seven of them, and the head, against 22 L + 6 of what is computed.
TEST_P(Bf16Training, OneStepStaysWithinItsRoundingsOfFp32) {
  TrainingCase half = GetParam();
  half.zero_router = half.tiny.expert.router == RouterUse::gate;  // the same choices in both precisions
  half.rounded_start = true;
  TrainingCase single = half;
  single.precision = Precision::fp32;
  TrainingCase exact = single;
  exact.rounded_start = false;
  Communicator const comm = Communicator::world();
  auto const got = train<float>(comm, half, 1), want = train<float>(comm, single, 1),
             other = train<float>(comm, exact, 1);
  auto const layers = static_cast<double>(half.tiny.model.layers);
  EXPECT_NEAR(got.loss[0], want.loss[0], band(half.tiny.model.layers) * want.loss[0]);
  EXPECT_NE(got.loss[0], want.loss[0]);
  double const answer = distance(want.gradient, other.gradient);
  EXPECT_GT(answer, 0.0);
  EXPECT_LE(distance(got.gradient, want.gradient),
            2.0 * std::sqrt((22.0 * layers + 6.0) / (7.0 * layers + 1.0)) * answer);
}

// Steps far below a rounding of the weights must not be lost: masters are fp32.
TEST_P(Bf16Training, TenStepsLearnAsInFp32) {
  TrainingCase single = GetParam();
  single.precision = Precision::fp32;
  Communicator const comm = Communicator::world();
  auto const got = train<float>(comm, GetParam(), 10), want = train<float>(comm, single, 10);
  for (std::size_t s = 0; s < want.loss.size(); ++s) {
    EXPECT_NEAR(got.loss[s], want.loss[s], 2.0 * band(single.tiny.model.layers) * want.loss[s])
        << "step " << s;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, Bf16Training, ::testing::ValuesIn(bf16_cases()),
                         [](auto const& info) { return info.param.name; });

TrainingCase named(std::string const& name) {
  for (auto const& c : bf16_cases()) {
    if (c.name == name) return c;
  }
  throw std::logic_error("no case " + name);
}

Trainer<float> trainer_of(Communicator const& comm, TrainingCase const& c) {
  return Trainer<float>(comm, c.tiny.model, c.tiny.expert, c.tiny.trained, 200, training_options<float>(c));
}

void expect_rounded(std::vector<bfloat16> const& half, std::vector<float> const& single) {
  ASSERT_EQ(half.size(), single.size());
  for (std::size_t i = 0; i < half.size(); ++i) ASSERT_EQ(half[i].bits, bfloat16(single[i]).bits) << i;
}

TEST(Bf16Weights, MastersAreThereForWhatIsTrained) {
  Communicator const comm = Communicator::world();
  auto const lora = trainer_of(comm, named("branch_bf16"));
  auto const& table = lora.table();
  auto const& w = lora.values();
  EXPECT_FALSE(w.in_single(Group::backbone));
  EXPECT_EQ(w.single.backbone.extent(0), 0U);
  EXPECT_EQ(static_cast<Index>(w.half.backbone.extent(0)), table.extent(Group::backbone));
  EXPECT_TRUE(w.in_single(Group::expert));
  EXPECT_EQ(static_cast<Index>(w.single.expert.extent(0)), table.extent(Group::expert));
  EXPECT_EQ(w.half.router.data(), w.single.router.data());
  EXPECT_EQ(w.bytes(), 2 * table.extent(Group::backbone) + 6 * table.extent(Group::expert) +
                           4 * table.extent(Group::router));
  auto const dense = trainer_of(comm, named("dense_bf16"));
  EXPECT_EQ(dense.values().bytes(), 6 * dense.table().extent(Group::backbone));
  auto const single = trainer_of(comm, training_cases()[0]);
  EXPECT_EQ(single.values().bytes(), 4 * single.table().extent(Group::backbone));
  EXPECT_LT(dense.bytes(), single.bytes());
}

TEST(Bf16Weights, ComputedWithAreTheMastersRounded) {
  if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  Communicator const comm = Communicator::world();
  TrainingCase const c = named("ffn_experts_bf16");
  auto trainer = trainer_of(comm, c);
  copy_held(trainer.table(), trainer.values(), trainer.table(), random_weights<float>(trainer.table(), 5));
  TokenStore const store = tiny_store(14, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  BatchPlan const plan(store, kTrainingContext, false, 4, 4, 4);
  trainer.step(store, plan.step(0, 0, 1, false), 0, kTrainingRate);
  auto const& w = trainer.values();
  expect_rounded(flat(w.half.backbone), flat(w.single.backbone));
  expect_rounded(flat(w.half.expert), flat(w.single.expert));
  std::size_t finer = 0;
  for (float const value : flat(w.single.backbone))
    finer += static_cast<float>(bfloat16(value)) != value ? 1 : 0;
  EXPECT_GT(finer, w.single.backbone.extent(0) / 2);
}

TEST(Bf16Weights, FilesHoldWhatIsFrozenAsItWas) {
  Scratch const s;
  Communicator const comm = Communicator::world();
  TrainingCase const c = named("branch_bf16");
  auto const trainer = trainer_of(comm, c);
  auto const start = random_weights<float>(trainer.table(), 5);
  ModelFileInfo info;
  info.kind = "moe";
  info.model = c.tiny.model;
  info.expert = c.tiny.expert;
  Groups const all = {true, true, true};
  write_model_file(s.path("start.h5"), comm, info, trainer.table(), start, all);
  read_model_file(s.path("start.h5"), &comm, trainer.table(), trainer.values(), all);
  expect_rounded(flat(trainer.values().half.backbone), flat(start.backbone));
  EXPECT_THROW(write_model_file(s.path("end.h5"), comm, info, trainer.table(), trainer.values(), all),
               std::logic_error);
  Kokkos::deep_copy(trainer.values().single.expert, 0.1F);
  write_model_file(s.path("end.h5"), comm, info, trainer.table(), trainer.values(), all, nullptr,
                   s.path("start.h5"));
  Weights<float> const back(trainer.table());
  read_model_file(s.path("end.h5"), &comm, trainer.table(), back, all);
  EXPECT_EQ(flat(back.backbone), flat(start.backbone));
  EXPECT_EQ(flat(back.router), flat(start.router));
  EXPECT_EQ(flat(back.expert).front(), 0.1F);
}

TEST(Bf16Evaluation, IsNearFp32AndFollowsTheWeights) {
  if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  Communicator const comm = Communicator::world();
  TrainingCase const c = named("lora_bf16");
  ParameterTable const table(c.tiny.model, c.tiny.expert);
  auto const single = random_weights<float>(table, 5);
  ModelWeights<float> const half(Precision::bf16, table);
  copy_held(table, half, table, single);
  EXPECT_EQ(half.single.backbone.extent(0) + half.single.expert.extent(0), 0U);
  TokenStore const store = tiny_store(9, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  Evaluator<float> evaluator(comm, c.tiny.model, c.tiny.expert, table);
  double const exact = total_loss(evaluator.evaluate(single, store, {})).mean();
  double const rounded = total_loss(evaluator.evaluate(half, store, {})).mean();
  EXPECT_NE(rounded, exact);
  EXPECT_NEAR(rounded, exact, band(c.tiny.model.layers) * exact);
  EXPECT_EQ(total_loss(evaluator.evaluate(single, store, {})).mean(), exact);
}

TEST(Bf16Weights, AreNotForChecksInDouble) {
  ParameterTable const table(tiny_model(true, 2), {});
  EXPECT_ANY_THROW(ModelWeights<double>(Precision::bf16, table));
}

}  // namespace
}  // namespace upit::test
