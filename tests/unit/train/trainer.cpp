// SPDX-License-Identifier: Apache-2.0
// Owns tests of one training step: its loss, its balance loss, what it trains and what it leaves alone.
#include "upit/train/trainer.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/plain_adamw.hpp"
#include "support/plain_model.hpp"
#include "support/tiny_training.hpp"

namespace upit::test {
namespace {

TrainingCase find_case(std::string const& name) {
  for (auto const& c : training_cases()) {
    if (c.name == name) return c;
  }
  throw std::runtime_error("no case " + name);
}

/// A trainer with random weights and the first steps of its plan.
struct Bench {
  TrainingCase c;
  Communicator comm = Communicator::world();
  TokenStore store;
  BatchPlan plan;
  Trainer<double> trainer;

  explicit Bench(TrainingCase const& from, TrainerOptions const& options)
      : c(from),
        store(tiny_store(14, c.tiny.model.vocabulary, 2, kTrainingContext + 1)),
        plan(store, kTrainingContext, c.packing, c.batch, c.micro_batch, 4),
        trainer(comm, c.tiny.model, c.tiny.expert, c.tiny.trained, plan.max_tokens_per_rank(1), options) {
    copy(trainer.weights(), random_weights<double>(trainer.table(), 5));
  }
  explicit Bench(TrainingCase const& from) : Bench(from, training_options<double>(from)) {}
  StepReport step(Index s, double rate = kTrainingRate) {
    return trainer.step(store, plan.step(s, 0, 1, false), s, rate);
  }
};

TEST(TrainerStep, LossIsTheMeanOverResponseTokens) {
  for (auto const* name : {"dense", "dense_accumulated", "branch_all", "ffn_all"}) {
    Bench b(find_case(name));
    PlainModel const plain(b.c.tiny.model, b.c.tiny.expert, b.trainer.table(), b.trainer.weights());
    double sum = 0.0;
    Index targets = 0, tokens = 0;
    for (Index const i : b.plan.step_samples(0, 0)) {
      auto const all = b.store.tokens_of(i);
      std::vector<int> const token(all.begin(), all.end() - 1);
      std::vector<int> target(all.begin() + 1, all.end());
      for (int t = 0; t + 1 < b.store.samples[static_cast<std::size_t>(i)].response; ++t) {
        target[static_cast<std::size_t>(t)] = -1;
      }
      for (double const nll : plain.nll(token, target)) {
        sum += nll;
        ++targets;
      }
      tokens += static_cast<Index>(token.size());
    }
    StepReport const report = b.step(0);
    EXPECT_EQ(report.targets, targets);
    EXPECT_EQ(report.tokens, tokens);
    EXPECT_NEAR(report.loss, sum / static_cast<double>(targets), 1e-12) << name;
  }
}

TEST(TrainerStep, MicroStepsAddUpToTheWholeBatch) {
  TrainingCase c = find_case("dense");
  auto const whole = train<double>(Communicator::world(), c, 5);
  for (Index const micro : {1, 2, 4}) {
    c.micro_batch = micro;
    auto const parts = train<double>(Communicator::world(), c, 5);
    for (std::size_t s = 0; s < 5; ++s) {
      EXPECT_NEAR(parts.loss[s], whole.loss[s], 1e-12);
      EXPECT_NEAR(parts.norm[s], whole.norm[s], 1e-11 * whole.norm[s]);
    }
  }
}

// language_weight * loss + balance * L_load + auxiliary_weight * L_aux, as the report gives them. The shares
// f_e are constant between flips of a choice, so that differences see the gradient through P_e alone, as it
// should be.
TEST(TrainerStep, GradientIsThatOfTheLossReported) {
  for (auto const& c : training_cases()) {
    Bench b(c);
    TrainerOptions const options = training_options<double>(c);
    auto const micro = b.plan.step(0, 0, 1, false);
    auto const negatives = c.auxiliary_share > 0.0 ? b.plan.step(40, 0, 1, false) : std::vector<MicroStep>();
    auto const total = [&] {  // a rate of zero leaves weights alone
      StepReport const r = b.trainer.step(b.store, micro, 0, 0.0, negatives);
      return options.language_weight * r.loss + options.balance * r.balance +
             options.auxiliary_weight * r.auxiliary;
    };
    total();
    auto const gradient = flat(b.trainer.gradient());
    double const h = 1e-5;
    for (auto const& t : b.trainer.table().tensors()) {
      if (t.gradient_offset < 0) continue;
      double* const data = t.group == Group::router ? b.trainer.weights().router.data() + t.offset
                                                    : b.trainer.weights().tensor(t).data();
      for (std::uint64_t probe = 0; probe < 2; ++probe) {
        auto const i = static_cast<Index>(
            random_below(random_key(2, t.name), probe, static_cast<std::uint64_t>(t.size())));
        double const saved = get(data + i);
        put(data + i, saved + h);
        double const up = total();
        put(data + i, saved - h);
        double const down = total();
        put(data + i, saved);
        double const expected = (up - down) / (2.0 * h);
        // Central differences err by h^2 f'''/6 + eps f / h: about 1e-9 for losses near 3.
        EXPECT_NEAR(gradient[static_cast<std::size_t>(t.gradient_offset + i)], expected,
                    2e-9 + 1e-6 * std::abs(expected))
            << c.name << ": " << t.name << " element " << i;
      }
    }
  }
}

TEST(TrainerStep, WeightsMoveByAdamwOnTheClippedGradient) {
  for (auto const* name : {"dense_accumulated", "ffn_all"}) {
    TrainingCase const c = find_case(name);
    TrainerOptions options = training_options<double>(c);
    options.clip = 0.5;
    Bench b(c, options);
    std::vector<PlainAdamw> element(static_cast<std::size_t>(b.trainer.table().gradient_extent()));
    for (Index s = 0; s < 4; ++s) {
      auto const before = flat(b.trainer.weights().backbone);
      double const rate = 1e-3 * static_cast<double>(s + 1);
      double const norm = b.step(s, rate).norm;
      ASSERT_GT(norm, options.clip) << "nothing was clipped";
      kernels::AdamwStep settings = options.adamw;
      settings.learning_rate = rate;
      settings.step = s + 1;
      auto const after = flat(b.trainer.weights().backbone), gradient = flat(b.trainer.gradient());
      for (auto const& t : b.trainer.table().tensors()) {
        if (t.group != Group::backbone) continue;
        for (Index i = 0; i < t.size(); ++i) {
          double const g = gradient[at(t.gradient_offset + i)] * options.clip / norm;
          double const want = element[static_cast<std::size_t>(t.gradient_offset + i)].step(
              before[static_cast<std::size_t>(t.offset + i)], g, settings);
          ASSERT_NEAR(after[at(t.offset + i)], want, 1e-14) << t.name;
        }
      }
    }
  }
}

TEST(TrainerStep, OnlyTrainedGroupsMove) {
  for (auto const& c : training_cases()) {
    Bench b(c);
    auto const before = flat(b.trainer.weights().backbone), experts = flat(b.trainer.weights().expert),
               router = flat(b.trainer.weights().router);
    b.step(0);
    Trained const t = c.tiny.trained;
    EXPECT_EQ(flat(b.trainer.weights().backbone) != before, t.backbone) << c.name;
    EXPECT_EQ(flat(b.trainer.weights().expert) != experts, t.expert && c.tiny.expert.count > 0) << c.name;
    bool const routed = c.tiny.expert.router == RouterUse::gate || c.auxiliary_share > 0.0;
    EXPECT_EQ(flat(b.trainer.weights().router) != router, t.router && routed) << c.name;
  }
}

// Weights near 3 nats: the first steps on one batch again and again must lower its loss.
TEST(TrainerStep, LowersTheLossOfOneBatch) {
  for (auto const* name : {"dense", "lora", "branch", "ffn"}) {
    TrainingCase c = find_case(name);
    c.tiny.expert.dropout = 0.0;
    Bench b(c);
    auto const micro = b.plan.step(0, 0, 1, false);
    double const first = b.trainer.step(b.store, micro, 0, 1e-2).loss;
    double last = first;
    for (Index s = 1; s < 20; ++s) last = b.trainer.step(b.store, micro, s, 1e-2).loss;
    EXPECT_LT(last, 0.8 * first) << name;
  }
}

TEST(TrainerStep, LanguageWeightScalesTheGradient) {
  TrainingCase const c = find_case("dense");
  TrainerOptions half = training_options<double>(c);
  half.language_weight = 0.5;
  StepReport const one = Bench(c).step(0), other = Bench(c, half).step(0);
  EXPECT_EQ(one.loss, other.loss);
  EXPECT_NEAR(other.norm, 0.5 * one.norm, 1e-13 * one.norm);
}

// A rate of zero leaves the weights alone, so that only the masks can change the loss.
TEST(TrainerStep, DropoutIsKeyedByStepAndSeed) {
  for (auto const* name : {"lora", "branch", "ffn"}) {
    TrainingCase const c = find_case(name);
    Bench b(c);
    auto const micro = b.plan.step(0, 0, 1, false);
    auto const loss = [&](Bench& bench, Index step) {
      return bench.trainer.step(bench.store, micro, step, 0.0).loss;
    };
    double const first = loss(b, 0);
    EXPECT_NE(loss(b, 1), first) << name;
    EXPECT_EQ(loss(b, 0), first) << name;
    TrainerOptions other = training_options<double>(c);
    other.seed += 1;
    Bench reseeded(c, other);
    EXPECT_NE(loss(reseeded, 0), first) << name;
  }
}

TEST(TrainerStep, NothingMovesWhenTheLossIsNotFinite) {
  for (double const poison :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (auto const* name : {"dense", "branch", "ffn"}) {
      Bench b(find_case(name));
      b.step(0);
      auto const& norm = b.trainer.table().find(1, "ffn_norm");
      put(b.trainer.weights().tensor(norm).data() + 2, poison);
      auto const before = flat(b.trainer.weights().expert), backbone = flat(b.trainer.weights().backbone),
                 moment = flat(b.trainer.optimizer().first_moment());
      StepReport const report = b.step(1);
      EXPECT_FALSE(std::isfinite(report.loss) && std::isfinite(report.norm)) << name;
      EXPECT_EQ(flat(b.trainer.weights().expert), before) << name;
      EXPECT_EQ(flat(b.trainer.optimizer().first_moment()), moment) << name;
      auto const after = flat(b.trainer.weights().backbone);
      for (std::size_t i = 0; i < after.size(); ++i) {
        bool const both_nan = std::isnan(after[i]) && std::isnan(backbone[i]);
        ASSERT_TRUE(both_nan || after[i] == backbone[i]) << name;
      }
    }
  }
}

TEST(TrainerStep, RepeatsBitForBitWithThreads) {
  for (auto const& c : training_cases()) {
    auto const once = train<float>(Communicator::world(), c, 3),
               again = train<float>(Communicator::world(), c, 3);
    EXPECT_EQ(once.loss, again.loss) << c.name;
    EXPECT_EQ(once.weights, again.weights) << c.name;
  }
}

// Weights whose router sees only where a token's embedding points: the residual stream is so large that
// blocks add nothing to its direction.
void point_embeddings(Bench const& b, Index directions) {
  ModelConfig const& m = b.c.tiny.model;
  auto const& table = b.trainer.table();
  auto const w = b.trainer.weights();
  std::vector<double> embedding(at(m.vocabulary * m.width), 0.0);
  for (Index v = 0; v < m.vocabulary; ++v) embedding[at(v * m.width + v % directions)] = 1e6;
  put_all(w.tensor(table.find("embedding")).data(), embedding);
  Kokkos::deep_copy(w.router, 0.0);
}

TEST(RouterBalance, AZeroRouterGivesOne) {
  for (auto const* name : {"branch", "ffn", "ffn_all"}) {
    Bench b(find_case(name));
    Kokkos::deep_copy(b.trainer.weights().router, 0.0);
    StepReport const report = b.step(0);
    auto const e = static_cast<double>(b.c.tiny.expert.count),
               k = static_cast<double>(b.c.tiny.expert.active);
    EXPECT_NEAR(report.balance, 1.0, 1e-13);
    EXPECT_NEAR(report.load.entropy, std::log(e), 1e-12);
    // Ties go to the lower experts: they take everything.
    EXPECT_NEAR(report.load.imbalance(2, b.c.tiny.expert.count), e / k, 1e-13);
    EXPECT_EQ(report.load.dead(), 2 * (b.c.tiny.expert.count - b.c.tiny.expert.active));
  }
}

TEST(RouterBalance, SharpAndEvenGivesOneToo) {
  TrainingCase c = find_case("branch");
  c.tiny.expert = tiny_experts(4, 1, LoraMix::branch, RouterOrder::topk_softmax);
  c.tiny.model.vocabulary = 16;
  c.batch = c.micro_batch = 1;
  Bench b(c);
  point_embeddings(b, 4);
  for (int l = 0; l < 2; ++l) {
    auto const& router = b.trainer.table().find(l, "router");
    for (Index e = 0; e < 4; ++e)
      put(b.trainer.weights().router.data() + router.offset + e * c.tiny.model.width + e, 100.0);
  }
  // One sample that feeds every token of the vocabulary once (the last of its 17 is only predicted).
  TokenStore store;
  store.domains = {"all"};
  std::vector<int> tokens;
  for (int t = 0; t < 17; ++t) tokens.push_back(t % 16);
  store.append(tokens, 1, 0);
  BatchPlan const plan(store, 40, false, 1, 1, 1);
  StepReport const report = b.trainer.step(store, plan.step(0, 0, 1, false), 0, 1e-3);
  EXPECT_NEAR(report.balance, 1.0, 1e-6);
  EXPECT_NEAR(report.load.imbalance(2, 4), 1.0, 1e-13);
  EXPECT_EQ(report.load.dead(), 0);
  EXPECT_NEAR(report.load.entropy, 0.0, 1e-6);
}

TEST(RouterBalance, FullCollapseGivesExpertsOverActive) {
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    for (Index const active : {1, 2, 5}) {
      TrainingCase c = find_case("branch");
      c.tiny.expert = tiny_experts(5, active, mix, RouterOrder::topk_softmax);
      Bench b(c);
      point_embeddings(b, 1);
      for (int l = 0; l < 2; ++l) {
        auto const& router = b.trainer.table().find(l, "router");
        for (Index e = 5 - active; e < 5; ++e) {
          put(b.trainer.weights().router.data() + router.offset + e * c.tiny.model.width, 100.0);
        }
      }
      StepReport const report = b.step(0);
      EXPECT_NEAR(report.balance, 5.0 / static_cast<double>(active), 1e-6) << "K " << active;
      EXPECT_EQ(report.load.dead(), 2 * (5 - active));
    }
  }
}

TEST(RouterLoad, LayersRanksAndWindows) {
  RouterLoad load;
  load.assigned = {6, 0, 0, 2, 1, 1, 0, 6};  // 2 layers of 4 experts
  load.layer_entropy = {0.5, 1.0};
  load.entropy = 0.75;
  load.tokens = 8;
  EXPECT_DOUBLE_EQ(load.layer_imbalance(0, 4), 3.0);
  EXPECT_DOUBLE_EQ(load.layer_imbalance(1, 4), 3.0);
  EXPECT_EQ(load.layer_dead(0, 4), 2);
  EXPECT_EQ(load.layer_dead(1, 4), 1);
  // 4 ranks, 2 layers. In groups of 2 the worst is the second group's second layer, 9 of 10 rows.
  std::vector<double> const received = {3, 5, 5, 3, 4, 1, 4, 9};
  EXPECT_DOUBLE_EQ(rank_imbalance(received, 2, 2), 1.8);
  EXPECT_DOUBLE_EQ(rank_imbalance(received, 2, 4), 9.0 * 4.0 / 18.0);
  EXPECT_DOUBLE_EQ(rank_imbalance(received, 2, 1), 1.0);
  EXPECT_EQ(rank_imbalance({0, 0}, 1, 2), 0.0);
  RouterLoad other;
  other.assigned = {0, 1, 0, 0, 0, 0, 1, 0};
  other.layer_entropy = {1.3, 0.2};
  other.entropy = 0.75;
  other.tokens = 24;
  load.add(other);
  EXPECT_EQ(load.dead(), 1);
  EXPECT_DOUBLE_EQ(load.layer_entropy[0], (0.5 * 8 + 1.3 * 24) / 32);
  EXPECT_DOUBLE_EQ(load.entropy, 0.75);
}

TEST(RouterLoad, ImbalanceIsOfTheWorstLayer) {
  RouterLoad load;
  load.assigned = {4, 4, 0, 0, 1, 3, 2, 2};
  EXPECT_DOUBLE_EQ(load.imbalance(2, 4), 2.0);
  EXPECT_EQ(load.dead(), 2);
  EXPECT_EQ(RouterLoad().imbalance(2, 4), 0.0);
}

}  // namespace
}  // namespace upit::test
