// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/route.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "unit/upcycle/route_support.hpp"

namespace upit::upcycle {
namespace {

using ::testing::HasSubstr;

std::vector<std::vector<Index>> domain_buckets(Index samples, Index experts) {
  std::vector<std::vector<Index>> buckets(static_cast<std::size_t>(experts));
  for (Index s = 0; s < samples; ++s) buckets[static_cast<std::size_t>(s % experts)].push_back(s);
  return buckets;
}

std::vector<float> host_copy(View1<float> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return {host.data(), host.data() + host.extent(0)};
}

struct Trained {
  RouteOutcome outcome;
  std::vector<RouteStep> steps;
  std::vector<float> expert, router;
};

Trained train(RouteTraining const& settings, TokenStore const& store, Index expert, Index experts = 3) {
  Communicator const comm = Communicator::world();
  RouteTrainer trainer(comm, settings, store, domain_buckets(store.size(), experts));
  test::fill_route_weights(trainer.table(), expert, trainer.weights());
  Trained t;
  t.outcome = trainer.train(expert, [&](RouteStep const& s) { t.steps.push_back(s); }).value();
  t.expert = host_copy(trainer.weights().expert);
  t.router = host_copy(trainer.weights().router);
  return t;
}

TEST(RouteTraining, LowersBothLosses) {
  TokenStore const store = test::route_store(120);
  Trained const t = train(test::route_settings(0.0), store, 1);
  EXPECT_EQ(t.outcome.steps, 20);  // 4 epochs of 40 samples in batches of 8
  EXPECT_EQ(t.steps.size(), 20U);
  EXPECT_LT(t.outcome.loss_after, t.outcome.loss_before - 0.02);
  EXPECT_LT(t.outcome.auxiliary_after, t.outcome.auxiliary_before - 0.02);
  // Vectors of N(0, 0.02) give logits near 0, where the loss is log 2.
  EXPECT_NEAR(t.outcome.auxiliary_before, std::log(2.0), 0.05);
}

TEST(RouteTraining, StartsFromARandomRoutersRow) {
  TokenStore const store = test::route_store(30);
  RouteTraining s = test::route_settings(0.0);
  s.max_steps = 0;
  Trained const t = train(s, store, 2);
  EXPECT_EQ(t.outcome.steps, 0);
  EXPECT_EQ(t.outcome.moved, 0.0);
  ExpertConfig moe = test::tiny_experts(3, 2, LoraMix::branch, RouterOrder::topk_softmax);
  ParameterTable const table(s.model, moe), single(s.model, s.expert);
  Weights<float> const weights(table);
  initialise_router(table, s.seed, 0, weights);
  auto const stacked = host_copy(weights.router);
  for (int l = 0; l < s.model.layers; ++l) {
    Tensor const &row = single.find(l, "router"), &all = table.find(l, "router");
    for (Index c = 0; c < s.model.width; ++c) {
      EXPECT_EQ(t.router[static_cast<std::size_t>(row.offset + c)],
                stacked[static_cast<std::size_t>(all.offset + 2 * s.model.width + c)]);
    }
  }
}

TEST(RouteTraining, RepeatsItselfWhateverWasTrainedBefore) {
  TokenStore const store = test::route_store(60);
  RouteTraining const s = test::route_settings(0.2);
  Trained const alone = train(s, store, 1);
  Communicator const comm = Communicator::world();
  RouteTrainer trainer(comm, s, store, domain_buckets(store.size(), 3));
  for (Index const e : {0, 2, 1}) {
    test::fill_route_weights(trainer.table(), e, trainer.weights());
    trainer.train(e);
  }
  EXPECT_EQ(host_copy(trainer.weights().router), alone.router);
  EXPECT_EQ(host_copy(trainer.weights().expert), alone.expert);
}

TEST(RouteTraining, GivesUpAfterTheStepAndLeavesNoTraceInTheNext) {
  TokenStore const store = test::route_store(60);
  RouteTraining const s = test::route_settings(0.2);
  Trained const alone = train(s, store, 1);
  Communicator const comm = Communicator::world();
  RouteTrainer trainer(comm, s, store, domain_buckets(store.size(), 3));
  Index const steps = trainer.steps(1);
  for (Index const last : {Index{1}, steps - 1, steps}) {
    Index taken = 0, asked = 0;
    test::fill_route_weights(trainer.table(), 1, trainer.weights());
    auto const outcome = trainer.train(
        1, [&](RouteStep const&) { ++taken; },
        [&](double seconds) {
          EXPECT_GT(seconds, 0.0);
          return ++asked == last;
        });
    EXPECT_EQ(taken, last);
    EXPECT_EQ(outcome.has_value(), last == steps);  // after its last step an expert is finished, not given up
    EXPECT_EQ(asked, std::min(last, steps - 1));
  }
  EXPECT_EQ(host_copy(trainer.weights().router), alone.router);
  EXPECT_EQ(host_copy(trainer.weights().expert), alone.expert);
}

TEST(RouteTraining, NegativesHoldTheVectorsBack) {
  TokenStore const store = test::route_store(120);
  RouteTraining s = test::route_settings(0.0);
  Trained const without = train(s, store, 1);
  s.negatives = true;
  Trained const with = train(s, store, 1);
  // Tokens of other buckets are pulled to target 0, so those of the own one stay lower than without them.
  EXPECT_GT(with.outcome.auxiliary_after, without.outcome.auxiliary_after + 0.02);
  EXPECT_EQ(with.outcome.steps, without.outcome.steps);
}

TEST(RouteTraining, AnEmptyBucketChangesNothing) {
  TokenStore const store = test::route_store(2);
  RouteTraining const s = test::route_settings(0.0);
  Trained const t = train(s, store, 2);  // samples 0 and 1 belong to experts 0 and 1
  EXPECT_EQ(t.outcome.steps, 0);
  EXPECT_TRUE(std::isnan(t.outcome.loss_before));
  ParameterTable const table(s.model, s.expert);
  EXPECT_EQ(t.expert, host_copy(test::random_weights<float>(table, 102).expert));
}

TEST(RouteTraining, NamesExpertAndStepOfANonFiniteLoss) {
  TokenStore const store = test::route_store(60);
  Communicator const comm = Communicator::world();
  RouteTrainer trainer(comm, test::route_settings(0.0), store, domain_buckets(60, 3));
  test::fill_route_weights(trainer.table(), 1, trainer.weights());
  View1<float> const expert = trainer.weights().expert;
  Kokkos::deep_copy(expert, std::numeric_limits<float>::infinity());
  try {
    trainer.train(1);
    FAIL() << "no error";
  } catch (AgreedError const& e) {
    EXPECT_THAT(e.what(), HasSubstr("expert 1, step 0"));
  }
}

/// rms of v.h over layers and tokens, with h taken from outside: one layer's FFN input is not to be had, so
/// the model has one layer whose h is known. Attention output and norm weights are made so that h is the
/// embedding.
TEST(RouteTraining, MeasuresHowFarLogitsMove) {
  TokenStore const store = test::route_store(40);
  RouteTraining s = test::route_settings(0.0);
  s.model.layers = 1;
  s.learning_rate = 2e-2;
  s.max_steps = 30;
  Communicator const comm = Communicator::world();
  std::vector<std::vector<Index>> bucket(1);
  for (Index i = 0; i < 20; ++i) bucket[0].push_back(i);
  RouteTrainer trainer(comm, s, store, bucket);
  test::fill_route_weights(trainer.table(), 0, trainer.weights());
  ParameterTable const& table = trainer.table();
  Weights<float> const& w = trainer.weights();
  Kokkos::deep_copy(w.tensor(table.find(0, "attention.out")), 0.0F);
  Kokkos::deep_copy(w.tensor(table.find(0, "ffn_norm")), 1.0F);
  RouteOutcome const o = trainer.train(0).value();

  Weights<float> const start(table);
  initialise_router(table, s.seed, 0, start);
  auto const before = host_copy(start.router), after = host_copy(w.router), all = host_copy(w.backbone);
  Tensor const &embedding = table.find("embedding"), &router = table.find(0, "router");
  double spread = 0.0, moved = 0.0, tokens = 0.0;
  for (Index const i : bucket[0]) {
    auto const sample = store.tokens_of(i);
    for (std::size_t t = 0; t + 1 < sample.size(); ++t) {
      float const* const x = all.data() + embedding.offset + sample[t] * s.model.width;
      double square = 0.0, first = 0.0, last = 0.0;
      for (Index c = 0; c < s.model.width; ++c) {
        square += static_cast<double>(x[c]) * x[c] / static_cast<double>(s.model.width);
        first += static_cast<double>(before[static_cast<std::size_t>(router.offset + c)]) * x[c];
        last += static_cast<double>(after[static_cast<std::size_t>(router.offset + c)]) * x[c];
      }
      double const rstd = 1.0 / std::sqrt(square + s.model.norm_eps);
      spread += first * rstd * first * rstd;
      moved += (last - first) * rstd * (last - first) * rstd;
      tokens += 1.0;
    }
  }
  // fp32 products of C terms against double ones.
  EXPECT_NEAR(o.spread / std::sqrt(spread / tokens), 1.0, 1e-5);
  EXPECT_NEAR(o.moved / std::sqrt(moved / tokens), 1.0, 1e-5);
  EXPECT_GT(o.moved, o.spread);
}

TEST(RouteReport, TrainingReadsBackAsItWas) {
  double const nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<RouteOutcome> const out = {{0, 100, 1.0 / 3.0, 1e-17, 0.1, 2e300, 0.3, 0.25},
                                         {11, 0, nan, nan, nan, nan, nan, nan}};
  auto const back = parse_training_csv(training_csv(out));
  ASSERT_EQ(back.size(), 2U);
  EXPECT_EQ(back[0].loss_before, 1.0 / 3.0);
  EXPECT_EQ(back[0].auxiliary_after, 2e300);
  EXPECT_EQ(back[0].moved, 0.25);
  EXPECT_EQ(back[1].expert, 11);
  EXPECT_TRUE(std::isnan(back[1].moved));
  EXPECT_THROW(parse_training_csv("expert\n"), Error);
  EXPECT_THROW(parse_training_csv(training_csv({}) + "1,2,x,4,5,6,7,8\n"), Error);
}

TEST(RouteReport, SaysWhereSeedsWent) {
  TokenStore const store = test::route_store(6);  // domains a b c a b c
  std::vector<Index> const seeds = {4, 0, 5};
  PerplexityMatrix matrix(3, 2);
  matrix.value = {std::log(2.0), std::log(4.0), 0.0, 1.0, 0.0, 1.0};
  Buckets const b = assign_buckets(matrix.value, 2, {2, true, false});
  std::string const csv = buckets_csv(store, seeds, b, &matrix);
  EXPECT_TRUE(
      csv.starts_with("sample,domain,expert,perplexity_0,perplexity_1\n4,b,0,2,4\n0,a,0,1,2.71828\n5,c,-1,"))
      << csv;
  EXPECT_TRUE(buckets_csv(store, seeds, random_buckets(3, 2, 2), nullptr)
                  .starts_with("sample,domain,expert\n4,b,0\n"));
  std::vector<RouteOutcome> const out = {{0, 99, 2.0, 1.5, 0.7, 0.25, 0.2, 0.3},
                                         {1, 120, 2.5, 1.0, 0.7, 0.5, 0.2, 0.4}};
  std::string const text = route_table(store, seeds, b, out).text();
  for (auto const* part : {"99", "1.5000", "0.2500", "1.000", "+0.8466"}) EXPECT_THAT(text, HasSubstr(part));
  auto const remarks = route_remarks(b, out, false);
  std::string all;
  for (auto const& r : remarks) all += r + "\n";
  for (auto const* part : {"0.000 to 1.000", "1/n = 0.500", "1 of 3 seeds", "moved by 0.3536",
                           "spread 0.2000", "warning: an expert has only 99 steps"}) {
    EXPECT_THAT(all, HasSubstr(part));
  }
  EXPECT_EQ(route_remarks(b, out, true).size() + 1, remarks.size());
}

}  // namespace
}  // namespace upit::upcycle
