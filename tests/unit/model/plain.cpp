// SPDX-License-Identifier: Apache-2.0
// Owns the comparison of forward with plain loops: long samples, several samples a batch, chunks of the head.
#include <gtest/gtest.h>

#include <cmath>

#include "support/plain_model.hpp"
#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

// About 300 roundings of 1.1e-16 deep in values near 1, and sums of up to 200 terms.
constexpr double kTolerance = 1e-12;

struct Given {
  ModelConfig model;
  ExpertConfig expert;
  ParameterTable table;
  Weights<double> weights;
  Exec exec;

  Given(ModelConfig const& m, ExpertConfig const& e, double size = 0.4)
      : model(m), expert(e), table(m, e), weights(random_weights<double>(table, 11, size)) {}

  /// nll of every target of a forward without training.
  std::vector<double> nll(HostBatch const& host) const {
    Transformer<double> transformer(model, expert, table, std::max<Index>(host.tokens(), 1), false);
    Batch batch(std::max<Index>(host.tokens(), 1));
    batch.assign(host);
    double const sum = transformer.forward(exec, weights, batch, {}, View1<double>());
    auto const each = transformer.target_nll();
    double total = 0.0;
    for (double const value : each) total += value;
    EXPECT_NEAR(sum, total, 1e-12 * std::abs(total));
    return each;
  }

  /// The same by plain loops, sample by sample.
  std::vector<double> plain_nll(HostBatch const& host) const {
    PlainModel const plain(model, expert, table, weights);
    std::vector<double> all;
    for (Index s = 0; s < host.segments(); ++s) {
      auto const begin = host.start[static_cast<std::size_t>(s)],
                 end = host.start[static_cast<std::size_t>(s) + 1];
      auto const one = plain.nll({host.token.begin() + begin, host.token.begin() + end},
                                 {host.target.begin() + begin, host.target.begin() + end});
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }
};

void expect_near(std::vector<double> const& found, std::vector<double> const& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], tolerance) << "element " << i;
}

ExpertConfig const kTopTwo = tiny_experts(5, 2, LoraMix::branch, RouterOrder::topk_softmax);

TEST(Plain, EveryFormOfTheModel) {
  HostBatch const host = random_batch({9, 1, 70, 5}, 17, 3);
  std::vector<ExpertConfig> experts = {{}, tiny_experts(1, 1, LoraMix::branch, RouterOrder::topk_softmax)};
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    for (auto const order : {RouterOrder::topk_softmax, RouterOrder::softmax_topk}) {
      for (Index const active : {1, 2, 5}) experts.push_back(tiny_experts(5, active, mix, order));
    }
  }
  for (auto const order : {RouterOrder::topk_softmax, RouterOrder::softmax_topk}) {
    for (Index const active : {1, 2, 5}) experts.push_back(tiny_ffn_experts(5, active, order));
  }
  experts.push_back(tiny_ffn_experts(1, 1, RouterOrder::topk_softmax));
  experts.push_back(tiny_ffn_experts(90, 3, RouterOrder::topk_softmax));  // more than tokens
  experts.push_back(tiny_ffn_experts(1, 1, RouterOrder::topk_softmax, RouterUse::none));
  for (auto const& e : experts) {
    for (bool const tied : {false, true}) {
      SCOPED_TRACE(::testing::Message()
                   << "E " << e.count << " K " << e.active << " mix " << static_cast<int>(e.mix) << " order "
                   << static_cast<int>(e.order) << " tied " << tied);
      Given const s(tiny_model(tied, tied ? 2 : 4), e);
      expect_near(s.nll(host), s.plain_nll(host), kTolerance);
    }
  }
}

TEST(Plain, AttentionBeyondOneBlock) {
  for (Index const kv_heads : {1, 2, 4}) {
    ModelConfig m = tiny_model(false, kv_heads);
    m.context = 200;
    Given const s(m, {});
    for (std::vector<Index> const& lengths :
         std::vector<std::vector<Index>>{{63}, {64}, {65}, {128, 2}, {129}, {1, 200, 64}}) {
      HostBatch const host = random_batch(lengths, m.vocabulary, 5, true);
      expect_near(s.nll(host), s.plain_nll(host), kTolerance);
    }
  }
}

// A chunk holds 2^22 / V rows, at least 64: with V = 70,000 it holds 64, so that 150 targets take three.
ModelConfig large_vocabulary(bool tied) {
  ModelConfig m = tiny_model(tied, 2);
  m.layers = 1;
  m.vocabulary = 70000;
  m.width = 4;
  m.heads = 2;
  m.head_width = 2;
  return m;
}

TEST(Plain, HeadInSeveralChunks) {
  for (bool const all : {true, false}) {
    Given const s(large_vocabulary(all), {});
    HostBatch const host = random_batch({80, 60}, s.model.vocabulary, 6, all);
    ASSERT_GT(host.targets(), 64);
    expect_near(s.nll(host), s.plain_nll(host), kTolerance);
  }
}

/// Gradient of the mean nll by a forward and backward of `host`.
std::vector<double> gradient_of(Given const& s, ParameterTable const& table, HostBatch const& host) {
  Index const room = std::max<Index>(host.tokens(), 1);
  Transformer<double> transformer(s.model, s.expert, table, room, true);
  Batch batch(room);
  batch.assign(host);
  PassOptions options;
  options.train = true;
  options.loss_scale = 0.01;
  View1<double> const gradient("gradient", table.gradient_extent());
  transformer.forward(s.exec, s.weights, batch, options, gradient);
  transformer.backward(s.exec, s.weights, batch, options, {}, gradient);
  s.exec.fence();
  return flat(gradient);
}

// The head's gradient is softmax - target per row, summed over rows in chunks; three batches of at most 64
// targets never meet a second chunk and must add up to the same.
TEST(Plain, HeadGradientInSeveralChunks) {
  ModelConfig const m = large_vocabulary(false);
  Given const s(m, {});
  ParameterTable const table(m, {}, {true, false, false});
  std::vector<double> sum(static_cast<std::size_t>(table.gradient_extent()), 0.0);
  HostBatch whole;
  for (std::uint64_t part = 0; part < 3; ++part) {
    HostBatch const one = random_batch({40}, m.vocabulary, 20 + part, true);
    whole.append(one.token, one.target, part);
    auto const g = gradient_of(s, table, one);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += g[i];
  }
  ASSERT_GT(whole.targets(), 64);
  expect_near(gradient_of(s, table, whole), sum, 1e-13);
}

TEST(Batch, ASampleDoesNotSeeItsNeighbours) {
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    Given const s(tiny_model(true, 2), tiny_experts(5, 2, mix, RouterOrder::topk_softmax));
    std::vector<HostBatch> alone;
    for (std::uint64_t i = 0; i < 4; ++i) {
      alone.push_back(random_batch({std::vector<Index>{3, 70, 1, 20}[i]}, s.model.vocabulary, 30 + i, true));
    }
    std::vector<std::vector<double>> expected;
    for (auto const& one : alone) expected.push_back(s.nll(one));
    for (std::vector<std::size_t> const& order :
         std::vector<std::vector<std::size_t>>{{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3}, {2, 0, 2}}) {
      HostBatch together;
      std::vector<double> want;
      for (std::size_t const i : order) {
        together.append(alone[i].token, alone[i].target, i);
        want.insert(want.end(), expected[i].begin(), expected[i].end());
      }
      expect_near(s.nll(together), want, kTolerance);
    }
  }
}

TEST(Batch, GradientsOfSamplesAddUp) {
  Given const s(tiny_model(false, 2), kTopTwo);
  ParameterTable const table(s.model, s.expert, {true, true, true});
  HostBatch together;
  std::vector<double> sum(static_cast<std::size_t>(table.gradient_extent()), 0.0);
  for (std::uint64_t i = 0; i < 3; ++i) {
    HostBatch const one = random_batch({std::vector<Index>{66, 1, 10}[i]}, s.model.vocabulary, 40 + i);
    together.append(one.token, one.target, i);
    auto const g = gradient_of(s, table, one);
    for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += g[k];
  }
  expect_near(gradient_of(s, table, together), sum, kTolerance);
}

TEST(Batch, EmptyForwardAndBackwardDoNothing) {
  auto const order = RouterOrder::topk_softmax;
  for (auto& e : {ExpertConfig{}, tiny_experts(5, 2, LoraMix::branch, order, 0.2),
                  tiny_experts(5, 2, LoraMix::ffn, order, 0.2), tiny_ffn_experts(5, 2, order)}) {
    bool const dense = e.count == 0;
    {
      Given const s(tiny_model(false, 2), e);
      ParameterTable const table(s.model, e, {true, !dense, !dense});
      Transformer<double> transformer(s.model, e, table, 20, true);
      Batch batch(20);
      PassOptions options;
      options.train = true;
      View1<double> const gradient("gradient", table.gradient_extent());
      // A pass with tokens first: what it left behind must not show.
      batch.assign(random_batch({12, 8}, s.model.vocabulary, 2));
      transformer.forward(s.exec, s.weights, batch, options, gradient);
      transformer.backward(s.exec, s.weights, batch, options, {}, gradient);
      Kokkos::deep_copy(gradient, 0.0);
      batch.assign({});
      EXPECT_EQ(transformer.forward(s.exec, s.weights, batch, options, gradient), 0.0);
      EXPECT_TRUE(transformer.target_nll().empty());
      EXPECT_TRUE(transformer.router_choices().empty());
      for (auto const& sums : {transformer.router_counts().assigned, transformer.router_counts().probability,
                               transformer.router_counts().entropy}) {
        for (double const value : sums) EXPECT_EQ(value, 0.0);
      }
      EXPECT_EQ(transformer.router_counts().tokens, 0.0);
      std::vector<double> const balance(dense ? 0 : 10, 0.3);
      transformer.backward(s.exec, s.weights, batch, options, balance, gradient);
      s.exec.fence();
      for (double const value : flat(gradient)) ASSERT_EQ(value, 0.0);
    }
  }
}

TEST(Batch, TokensWithoutTargetsGiveNoLossAndNoGradient) {
  Given const s(tiny_model(true, 2), kTopTwo);
  ParameterTable const table(s.model, s.expert, {true, true, true});
  HostBatch host = random_batch({6, 3}, s.model.vocabulary, 2);
  std::fill(host.target.begin(), host.target.end(), -1);
  EXPECT_TRUE(s.nll(host).empty());
  for (double const value : gradient_of(s, table, host)) ASSERT_EQ(value, 0.0);
}

TEST(Batch, MoreTokensThanRoomIsAMistakeOfOurs) {
  Batch batch(5);
  EXPECT_THROW(batch.assign(random_batch({6}, 17, 1)), std::logic_error);
}

TEST(Logits, AreThoseOfTheRowsAskedFor) {
  for (bool const tied : {true, false}) {
    Given const s(tiny_model(tied, 2), kTopTwo);
    HostBatch const host = random_batch({7, 4}, s.model.vocabulary, 9);
    Transformer<double> transformer(s.model, s.expert, s.table, 32, false);
    Batch batch(32);
    batch.assign(host);
    transformer.forward(s.exec, s.weights, batch, {}, View1<double>());
    PlainModel const plain(s.model, s.expert, s.table, s.weights);
    auto const first = plain.logits({host.token.begin(), host.token.begin() + 7});
    auto const second = plain.logits({host.token.begin() + 7, host.token.end()});
    std::vector<double> want(second[3]);
    want.insert(want.end(), first[0].begin(), first[0].end());
    want.insert(want.end(), first[6].begin(), first[6].end());
    expect_near(transformer.logits(s.exec, s.weights, {10, 0, 6}), want, kTolerance);
  }
}

}  // namespace
}  // namespace upit::test
