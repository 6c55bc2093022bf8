// SPDX-License-Identifier: Apache-2.0
// Owns the checks of training in 16 bits: against fp32, what is held in which precision, what files hold.
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "support/bf16.hpp"
#include "support/tiny_training.hpp"
#include "unit/io/scratch.hpp"
#include "upit/train/evaluation.hpp"
#include "upit/train/model_file.hpp"

namespace upit::test {
namespace {

using Bf16Training = Bf16Test<TrainingCase>;

double band(Index layers) { return rounding_band(layers, true); }

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

// Whether there are masters this cannot tell: see StepsFarBelowARoundingAddUpAsInFp32.
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
  EXPECT_FALSE(w.in_fp32(Group::backbone));
  EXPECT_EQ(w.fp32.backbone.extent(0), 0U);
  EXPECT_EQ(static_cast<Index>(w.bf16.backbone.extent(0)), table.extent(Group::backbone));
  EXPECT_TRUE(w.in_fp32(Group::expert));
  EXPECT_EQ(static_cast<Index>(w.fp32.expert.extent(0)), table.extent(Group::expert));
  EXPECT_EQ(w.bf16.router.data(), w.fp32.router.data());
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
  expect_rounded(flat(w.bf16.backbone), flat(w.fp32.backbone));
  expect_rounded(flat(w.bf16.expert), flat(w.fp32.expert));
  std::size_t finer = 0;
  for (float const value : flat(w.fp32.backbone))
    finer += static_cast<float>(bfloat16(value)) != value ? 1 : 0;
  EXPECT_GT(finer, w.fp32.backbone.extent(0) / 2);
}

// AdamW moves a weight by at most a few rates a step; from a steady gradient, by the rate. Weights of 2^-6
// and more lie 2^-14 apart in 16 bits at least, so a step below 2^-15 is lost on one that is rounded after
// it. The rate is a quarter of that, and 128 steps are 2^-10, twice the distance of weights up to 2^-3.
constexpr double kRateBelowARounding = 0x1p-17;
constexpr Index kStepsBelowARounding = 128;

/// How far the weights that are computed with went in these steps on one batch; 0 for those of other sizes.
/// Without masters what a step leaves is rounded before the next.
std::vector<double> way(Communicator const& comm, TrainingCase const& c, bool masters) {
  auto trainer = trainer_of(comm, c);
  auto const& w = trainer.values();
  auto start = random_weights<float>(trainer.table(), 5);
  for (auto const& buffer : {start.backbone, start.expert}) {
    std::vector<float> values = flat(buffer);
    for (float& value : values) value = static_cast<float>(bfloat16(value));
    put_all(buffer.data(), values);
  }
  copy_held(trainer.table(), w, trainer.table(), start);
  TokenStore const store = tiny_store(14, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  BatchPlan const plan(store, kTrainingContext, false, 4, 4, 4);
  auto const computed_with = [&](View1<float> const& fp32, View1<bfloat16> const& bf16) {
    if (c.precision == Precision::fp32) return flat(fp32);
    std::vector<float> values;
    for (bfloat16 const value : flat(bf16)) values.push_back(static_cast<float>(value));
    return values;
  };
  for (Index s = 0; s < kStepsBelowARounding; ++s) {
    trainer.step(store, plan.step(0, 0, 1, false), s, kRateBelowARounding);
    if (masters) continue;
    put_all(w.fp32.backbone.data(), computed_with(w.fp32.backbone, w.bf16.backbone));
    put_all(w.fp32.expert.data(), computed_with(w.fp32.expert, w.bf16.expert));
  }
  std::vector<double> moved;
  auto const add = [&](Group group, std::vector<float> const& before, std::vector<float> const& after) {
    if (!c.tiny.trained[group]) return;
    for (std::size_t i = 0; i < before.size(); ++i) {
      bool const seen = std::abs(before[i]) >= 0x1p-6F && std::abs(before[i]) < 0x1p-3F;
      moved.push_back(seen ? static_cast<double>(after.at(i)) - static_cast<double>(before[i]) : 0.0);
    }
  };
  add(Group::backbone, flat(start.backbone), computed_with(w.fp32.backbone, w.bf16.backbone));
  add(Group::expert, flat(start.expert), computed_with(w.fp32.expert, w.bf16.expert));
  return moved;
}

TEST(Bf16Weights, StepsFarBelowARoundingAddUpAsInFp32) {
  if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  Communicator const comm = Communicator::world();
  for (char const* name : {"dense_bf16", "lora_bf16", "ffn_experts_bf16"}) {
    SCOPED_TRACE(name);
    TrainingCase const rounded = named(name);
    TrainingCase exact = rounded;
    exact.precision = Precision::fp32;
    auto const want = way(comm, exact, true), got = way(comm, rounded, true),
               lost = way(comm, rounded, false);
    double wanted = 0.0, along = 0.0, without = 0.0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      wanted += want[i] * want[i];
      along += got.at(i) * want[i];
      without += std::abs(lost.at(i));
    }
    EXPECT_GT(wanted, 0.0);
    // Elements whose gradient is below its roundings go either way; most others end within half a distance of
    // the way in fp32, a quarter of it.
    EXPECT_GT(along, 0.75 * wanted);
    EXPECT_LT(along, 1.25 * wanted);
    EXPECT_EQ(without, 0.0);  // so this test can tell
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
  expect_rounded(flat(trainer.values().bf16.backbone), flat(start.backbone));
  EXPECT_THROW(write_model_file(s.path("end.h5"), comm, info, trainer.table(), trainer.values(), all),
               std::logic_error);
  Kokkos::deep_copy(trainer.values().fp32.expert, 0.1F);
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
  ModelWeights<float> const bf16(Precision::bf16, table);
  copy_held(table, bf16, table, single);
  EXPECT_EQ(bf16.fp32.backbone.extent(0) + bf16.fp32.expert.extent(0), 0U);
  TokenStore const store = tiny_store(9, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  Evaluator<float> evaluator(comm, c.tiny.model, c.tiny.expert, table);
  double const exact = total_loss(evaluator.evaluate(single, store, {})).mean();
  double const rounded = total_loss(evaluator.evaluate(bf16, store, {})).mean();
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
