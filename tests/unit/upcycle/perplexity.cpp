// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/perplexity.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "unit/upcycle/route_support.hpp"

namespace upit::upcycle {
namespace {

TEST(Perplexity, IsTheMeanOverResponseTokensOfTheSampleAlone) {
  TokenStore const store = test::route_store(50);
  ModelConfig const model = test::tiny_model(true, 2);
  ExpertConfig const expert = test::route_expert(RouterUse::none, 0.3);  // dropout is for training only
  ParameterTable const table(model, expert);
  Weights<float> const weights(table);
  test::fill_route_weights(table, 2, weights);
  std::vector<Index> const samples = {3,  40, 7,  0,  49, 12, 13, 14, 15, 16,
                                      17, 18, 19, 20, 21, 22, 23, 24, 25};
  Communicator const comm = Communicator::world();
  PerplexityScorer scorer(comm, model, expert, table, store, samples);
  EXPECT_EQ(scorer.blocks(0, 1), 2);
  auto const found = scorer.score(weights, 0, 1).value();

  Exec const exec;
  for (std::size_t s = 0; s < samples.size(); ++s) {
    auto const tokens = store.tokens_of(samples[s]);
    std::vector<int> const input(tokens.begin(), tokens.end() - 1);
    HostBatch host;
    host.append(input, std::vector<int>(input.size(), -1), 0);
    Batch batch(host.tokens());
    batch.assign(host);
    Transformer<float> one(model, expert, table, host.tokens(), false);
    one.forward(exec, weights, batch, PassOptions{}, View1<float>());
    std::vector<int> rows;
    for (std::size_t t = 0; t < input.size(); ++t) rows.push_back(static_cast<int>(t));
    auto const logits = one.logits(exec, weights, rows);
    double nll = 0.0, count = 0.0;
    for (auto t = static_cast<std::size_t>(store.samples[static_cast<std::size_t>(samples[s])].response);
         t < tokens.size(); ++t) {
      double const* const row = logits.data() + (t - 1) * static_cast<std::size_t>(model.vocabulary);
      double sum = 0.0;
      for (Index v = 0; v < model.vocabulary; ++v) sum += std::exp(row[v]);
      nll += std::log(sum) - row[tokens[t]];
      count += 1.0;
    }
    // Logits of order one from some tens of fp32 roundings each.
    EXPECT_NEAR(found[s], nll / count, 2e-5) << "sample " << samples[s];
  }
}

TEST(Perplexity, PartsHaveTheSameBitsAsTheWhole) {
  TokenStore const store = test::route_store(100);
  ModelConfig const model = test::tiny_model(true, 2);
  ExpertConfig const expert = test::route_expert(RouterUse::none, 0.0);
  ParameterTable const table(model, expert);
  Weights<float> const weights(table);
  test::fill_route_weights(table, 0, weights);
  std::vector<Index> samples;
  for (Index s = 99; s >= 0; --s) samples.push_back(s);
  Communicator const comm = Communicator::world();
  PerplexityScorer whole(comm, model, expert, table, store, samples);
  auto const expected = whole.score(weights, 0, 1).value();
  for (Index const parts : {2, 3, 9}) {
    std::vector<double> sum(samples.size(), 0.0);
    for (Index part = 0; part < parts; ++part) {
      PerplexityScorer own(comm, model, expert, table, store, samples);
      auto const scores = own.score(weights, part, parts).value();
      for (std::size_t s = 0; s < sum.size(); ++s) sum[s] += scores[s];
    }
    EXPECT_EQ(sum, expected) << parts << " parts";
  }
}

TEST(Perplexity, IsStoppedBetweenBlocksInEveryPartAlike) {
  TokenStore const store = test::route_store(100);
  ModelConfig const model = test::tiny_model(true, 2);
  ExpertConfig const expert = test::route_expert(RouterUse::none, 0.0);
  ParameterTable const table(model, expert);
  Weights<float> const weights(table);
  test::fill_route_weights(table, 0, weights);
  std::vector<Index> samples;
  for (Index s = 0; s < 80; ++s) samples.push_back(s);
  Communicator const comm = Communicator::world();
  PerplexityScorer scorer(comm, model, expert, table, store, samples);
  ASSERT_EQ(scorer.blocks(0, 1), 5);
  // Of three parts the first two have two blocks; the third has one and asks as often.
  for (Index part = 0; part < 3; ++part) {
    std::vector<Index> asked;
    auto const ask = [&](Index done) {
      asked.push_back(done);
      return false;
    };
    EXPECT_TRUE(scorer.score(weights, part, 3, ask).has_value());
    EXPECT_EQ(asked, (std::vector<Index>{1, part < 2 ? 2 : 1})) << part;
  }
  Index asked = 0;
  EXPECT_FALSE(scorer.score(weights, 0, 1, [&](Index done) { return (asked = done) == 3; }).has_value());
  EXPECT_EQ(asked, 3);
  EXPECT_TRUE(scorer.score(weights, 0, 1, [&](Index done) { return (asked = done) == 5; }).has_value());
  EXPECT_EQ(asked, 5);
}

}  // namespace
}  // namespace upit::upcycle
