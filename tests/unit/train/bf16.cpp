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

// As in the test of the model: 11 roundings a layer and 3, forward and backward; here the weights, which fp32
// does not round, are rounded too, which counts once for each of the 6 products of a layer and the head.
double band(Index layers) {
  double const roundings = 2.0 * static_cast<double>(17 * layers + 4);
  return 2.0 * std::sqrt(roundings / 6.0) * 0x1p-8;
}

TEST_P(Bf16Training, OneStepStaysWithinItsRoundingsOfFp32) {
  TrainingCase single = GetParam();
  single.precision = Precision::fp32;
  Communicator const comm = Communicator::world();
  auto const got = train<float>(comm, GetParam(), 1), want = train<float>(comm, single, 1);
  double const allowed = band(single.tiny.model.layers);
  EXPECT_NEAR(got.loss[0], want.loss[0], allowed * want.loss[0]);
  EXPECT_NE(got.loss[0], want.loss[0]);
  EXPECT_NEAR(got.norm[0], want.norm[0], allowed * want.norm[0]);
  double away = 0.0, size = 0.0;
  for (std::size_t i = 0; i < want.gradient.size(); ++i) {
    away += std::pow(static_cast<double>(got.gradient[i]) - static_cast<double>(want.gradient[i]), 2);
    size += std::pow(static_cast<double>(want.gradient[i]), 2);
  }
  std::cout << GetParam().name << " gradient " << std::sqrt(away / size) << " of " << allowed << " loss "
            << got.loss[0] << " " << want.loss[0] << std::endl;
  EXPECT_LE(std::sqrt(away / size), allowed);
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
  std::size_t finer = 0;
  auto const masters = flat(w.single.backbone), experts = flat(w.single.expert);
  auto const rounded = flat(w.half.backbone), rounded_experts = flat(w.half.expert);
  for (std::size_t i = 0; i < masters.size(); ++i) {
    ASSERT_EQ(rounded[i].bits, bfloat16(masters[i]).bits);
    finer += static_cast<float>(rounded[i]) != masters[i] ? 1 : 0;
  }
  EXPECT_GT(finer, masters.size() / 2);
  for (std::size_t i = 0; i < experts.size(); ++i) {
    ASSERT_EQ(rounded_experts[i].bits, bfloat16(experts[i]).bits);
  }
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
  auto const found = flat(trainer.values().half.backbone);
  auto const wanted = flat(start.backbone);
  for (std::size_t i = 0; i < wanted.size(); ++i) ASSERT_EQ(found[i].bits, bfloat16(wanted[i]).bits);
  EXPECT_THROW(write_model_file(s.path("end.h5"), comm, info, trainer.table(), trainer.values(), all),
               std::logic_error);
  Kokkos::deep_copy(trainer.values().single.expert, 0.1F);
  write_model_file(s.path("end.h5"), comm, info, trainer.table(), trainer.values(), all, nullptr,
                   s.path("start.h5"));
  Weights<float> const back(trainer.table());
  read_model_file(s.path("end.h5"), &comm, trainer.table(), back, all);
  EXPECT_EQ(flat(back.backbone), flat(start.backbone));
  EXPECT_EQ(flat(back.router), flat(start.router));
  EXPECT_EQ(back.expert(0), 0.1F);
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
