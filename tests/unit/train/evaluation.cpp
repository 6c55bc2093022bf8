// SPDX-License-Identifier: Apache-2.0
// Owns the checks of losses by sample, token and domain, and of expert counts.
#include "upit/train/evaluation.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

/// Samples of many lengths in three domains, the last of which stays empty.
TokenStore random_store(Index samples, Index vocabulary) {
  TokenStore store;
  store.domains = {"code", "math", "none"};
  RandomKey const key = random_key(11, "store");
  std::uint64_t i = 0;
  for (Index s = 0; s < samples; ++s) {
    std::vector<int> tokens(2 + random_below(key, i++, 30));
    for (int& t : tokens) {
      t = static_cast<int>(random_below(key, i++, static_cast<std::uint64_t>(vocabulary)));
    }
    store.append(tokens, static_cast<int>(random_below(key, i++, tokens.size())), static_cast<int>(s % 2));
  }
  return store;
}

struct Fixture {
  ModelConfig model = tiny_model(false, 2);
  ExpertConfig expert = tiny_experts(5, 2, LoraMix::branch, RouterOrder::topk_softmax);
  ParameterTable table{model, expert};
  Weights<double> weights = random_weights<double>(table, 3);
  TokenStore store = random_store(23, model.vocabulary);
  Communicator comm = Communicator::world();
};

EvaluationOptions everything(Index micro_batch, bool loss_on_all) {
  EvaluationOptions o;
  o.micro_batch = micro_batch;
  o.loss_on_all = loss_on_all;
  o.keep_tokens = o.count_experts = true;
  return o;
}

// Sums of a few hundred terms of order 1 in double, in other orders and blockings.
constexpr double kTolerance = 1e-12;

/// nll of one sample alone, from the logits of every position.
std::vector<double> reference_nll(Fixture const& f, Transformer<double>& model, Batch& batch, Index sample,
                                  bool loss_on_all) {
  auto const tokens = f.store.tokens_of(sample);
  HostBatch host;
  host.append({tokens.begin(), tokens.end() - 1}, std::vector<int>(tokens.size() - 1, -1), 0);
  batch.assign(host);
  Exec const exec;
  model.forward(exec, f.weights, batch, {}, {});
  std::vector<int> rows(tokens.size() - 1);
  std::iota(rows.begin(), rows.end(), 0);
  auto const logits = model.logits(exec, f.weights, rows);
  int const response = f.store.samples[static_cast<std::size_t>(sample)].response;
  std::vector<double> nll;
  for (std::size_t t = loss_on_all ? 1 : static_cast<std::size_t>(std::max(1, response)); t < tokens.size();
       ++t) {
    double const* const row = logits.data() + (t - 1) * static_cast<std::size_t>(f.model.vocabulary);
    double sum = 0.0;
    for (Index v = 0; v < f.model.vocabulary; ++v) sum += std::exp(row[v]);
    nll.push_back(std::log(sum) - row[tokens[t]]);
  }
  return nll;
}

TEST(Evaluator, GivesEveryTokensLossInOrder) {
  Fixture const f;
  Evaluator<double> evaluator(f.comm, f.model, f.expert, f.table);
  Transformer<double> alone(f.model, f.expert, f.table, 40, false);
  Batch batch(40);
  for (bool const all : {false, true}) {
    Evaluation const result = evaluator.evaluate(f.weights, f.store, everything(7, all));
    ASSERT_EQ(result.samples(), f.store.size());
    double total = 0.0;
    Index targets = 0;
    for (Index s = 0; s < f.store.size(); ++s) {
      auto const i = static_cast<std::size_t>(s);
      auto const nll = reference_nll(f, alone, batch, s, all);
      ASSERT_EQ(result.targets[i], static_cast<Index>(nll.size()));
      ASSERT_EQ(result.token_begin[i + 1] - result.token_begin[i], result.targets[i]);
      for (std::size_t t = 0; t < nll.size(); ++t) {
        EXPECT_NEAR(result.token_nll[static_cast<std::size_t>(result.token_begin[i]) + t], nll[t],
                    kTolerance);
      }
      double const sum = std::accumulate(nll.begin(), nll.end(), 0.0);
      EXPECT_NEAR(result.nll[i], sum, kTolerance * 100);
      total += sum;
      targets += static_cast<Index>(nll.size());
    }
    PartLoss const whole = total_loss(result);
    EXPECT_EQ(whole.targets, targets);
    EXPECT_NEAR(whole.mean(), total / static_cast<double>(targets), kTolerance);
    EXPECT_NEAR(whole.perplexity(), std::exp(whole.mean()), kTolerance);
  }
}

TEST(Evaluator, DoesNotDependOnTheBlocks) {
  Fixture const f;
  Evaluator<double> evaluator(f.comm, f.model, f.expert, f.table);
  Evaluation const one = evaluator.evaluate(f.weights, f.store, everything(1, false));
  for (Index const micro_batch : {Index{4}, Index{23}, Index{100}}) {
    Evaluation const other = evaluator.evaluate(f.weights, f.store, everything(micro_batch, false));
    for (std::size_t s = 0; s < one.nll.size(); ++s) EXPECT_NEAR(one.nll[s], other.nll[s], kTolerance * 100);
    EXPECT_EQ(one.experts, other.experts);
  }
}

TEST(Evaluator, TakesSomeSamplesInAnyOrder) {
  Fixture const f;
  Evaluator<double> evaluator(f.comm, f.model, f.expert, f.table);
  Evaluation const all = evaluator.evaluate(f.weights, f.store, everything(6, false));
  std::vector<Index> const some = {20, 3, 11, 0};
  Evaluation const part = evaluator.evaluate(f.weights, f.store, some, everything(3, false));
  ASSERT_EQ(part.samples(), 4);
  Index const le = all.layers * all.expert_count;
  for (std::size_t s = 0; s < some.size(); ++s) {
    auto const i = static_cast<std::size_t>(some[s]);
    EXPECT_NEAR(part.nll[s], all.nll[i], kTolerance * 100);
    EXPECT_EQ(part.domain[s], all.domain[i]);
    for (Index k = 0; k < le; ++k) {
      EXPECT_EQ(part.experts[s * static_cast<std::size_t>(le) + static_cast<std::size_t>(k)],
                all.experts[i * static_cast<std::size_t>(le) + static_cast<std::size_t>(k)]);
    }
  }
  EXPECT_EQ(evaluator.evaluate(f.weights, f.store, std::vector<Index>{}, everything(3, false)).samples(), 0);
  EXPECT_THROW(evaluator.evaluate(f.weights, f.store, std::vector<Index>{1, 1}, {}), std::logic_error);
}

TEST(Evaluator, CountsTheSlotsOfEverySample) {
  Fixture const f;
  Evaluator<double> evaluator(f.comm, f.model, f.expert, f.table);
  Evaluation const result = evaluator.evaluate(f.weights, f.store, everything(5, false));
  ASSERT_EQ(result.layers, f.model.layers);
  ASSERT_EQ(result.expert_count, f.expert.count);
  auto const begin = result.experts.begin();
  for (Index s = 0; s < f.store.size(); ++s) {
    for (Index l = 0; l < result.layers; ++l) {
      auto const row = begin + (s * result.layers + l) * result.expert_count;
      EXPECT_EQ(std::accumulate(row, row + result.expert_count, Index{0}),
                f.store.input_tokens(s) * f.expert.active);
    }
  }
  // The model's own statistics, one sample at a time, count the same slots.
  Transformer<double> alone(f.model, f.expert, f.table, 40, false);
  Batch batch(40);
  for (Index s = 0; s < 5; ++s) {
    reference_nll(f, alone, batch, s, true);
    auto const& assigned = alone.router_counts().assigned;
    for (std::size_t k = 0; k < assigned.size(); ++k) {
      EXPECT_EQ(static_cast<double>(result.experts[static_cast<std::size_t>(s) * assigned.size() + k]),
                assigned[k]);
    }
  }
}

TEST(Evaluator, SortsByDomain) {
  Fixture const f;
  Evaluator<double> evaluator(f.comm, f.model, f.expert, f.table);
  Evaluation const result = evaluator.evaluate(f.weights, f.store, everything(64, true));
  auto const parts = loss_by_domain(result);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].name, "code");
  EXPECT_EQ(parts[0].samples, 12);
  EXPECT_EQ(parts[1].samples, 11);
  EXPECT_EQ(parts[2].targets, 0);
  EXPECT_TRUE(std::isnan(parts[2].mean()));
  PartLoss const whole = total_loss(result);
  EXPECT_EQ(parts[0].targets + parts[1].targets, whole.targets);
  EXPECT_NEAR(parts[0].nll + parts[1].nll, whole.nll, kTolerance * 1000);

  auto const counts = experts_by_domain(result);
  ASSERT_EQ(static_cast<Index>(counts.size()), f.model.layers * 3 * f.expert.count);
  Index tokens[2] = {0, 0};
  for (Index s = 0; s < f.store.size(); ++s) tokens[s % 2] += f.store.input_tokens(s);
  for (Index l = 0; l < f.model.layers; ++l) {
    for (Index d = 0; d < 3; ++d) {
      auto const row = counts.begin() + (l * 3 + d) * f.expert.count;
      EXPECT_EQ(std::accumulate(row, row + f.expert.count, Index{0}),
                d < 2 ? tokens[d] * f.expert.active : 0);
    }
  }
}

TEST(Evaluator, RunsADenseModelWithoutCounts) {
  Fixture const f;
  ParameterTable const table(f.model, {});
  auto const weights = random_weights<float>(table, 4);
  Evaluator<float> evaluator(f.comm, f.model, {}, table);
  Evaluation const result = evaluator.evaluate(weights, f.store, everything(8, true));
  EXPECT_TRUE(result.experts.empty());
  EXPECT_TRUE(experts_by_domain(result).empty());
  EXPECT_GT(total_loss(result).mean(), 0.0);
  EXPECT_GT(evaluator.bytes(), 0);
}

TEST(Evaluator, RefusesASampleAboveTheContext) {
  Fixture f;
  f.model.context = 20;
  Evaluator<double> evaluator(f.comm, f.model, f.expert, f.table);
  EXPECT_THROW(evaluator.evaluate(f.weights, f.store, everything(8, true)), AgreedError);
}

}  // namespace
}  // namespace upit::test
