// SPDX-License-Identifier: Apache-2.0
// Owns what the two forms of LoRA mixing and the two router orders owe each other and the dense model.
#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

// Equal in exact arithmetic; sums run in another order, some 300 roundings of 1.1e-16 deep near 1.
constexpr double kTolerance = 1e-12;

HostBatch const& batch_of() {
  static HostBatch const host = random_batch({30, 1, 9}, 17, 8, true);
  return host;
}

std::vector<double> nll(ModelConfig const& m, ExpertConfig const& e, Weights<double> const& weights) {
  ParameterTable const table(m, e);
  HostBatch const& host = batch_of();
  Transformer<double> transformer(m, e, table, host.tokens(), false);
  Batch batch(host.tokens());
  batch.assign(host);
  transformer.forward(Exec(), weights, batch, {}, View1<double>());
  return transformer.target_nll();
}

double apart(std::vector<double> const& a, std::vector<double> const& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

/// Every expert becomes expert 0.
void make_experts_equal(ParameterTable const& table, Weights<double> const& w, Index count) {
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    double* const data = w.expert.data() + t.offset;
    Index const size = t.size() / count;
    for (Index e = 1; e < count; ++e) {
      Kokkos::deep_copy(View1<double>(data + e * size, size), View1<double>(data, size));
    }
  }
}

/// Dense LoRA weights: the backbone of `from` and its expert 0.
Weights<double> first_expert(ModelConfig const& m, ExpertConfig const& lora, ParameterTable const& from_table,
                             Weights<double> const& from) {
  ParameterTable const table(m, lora);
  Weights<double> const w(table);
  Kokkos::deep_copy(w.backbone, from.backbone);
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    Kokkos::deep_copy(View1<double>(w.expert.data() + t.offset, t.size()),
                      View1<double>(from.expert.data() + from_table.find(t.name).offset, t.size()));
  }
  return w;
}

TEST(Mixing, EqualExpertsAreTheDenseLora) {
  ModelConfig const m = tiny_model(true, 2);
  ExpertConfig const lora = tiny_experts(1, 1, LoraMix::branch, RouterOrder::topk_softmax);
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    for (Index const active : {1, 2, 5}) {
      ExpertConfig const e = tiny_experts(5, active, mix, RouterOrder::topk_softmax);
      ParameterTable const table(m, e);
      auto const w = random_weights<double>(table, 21);
      make_experts_equal(table, w, e.count);
      auto const dense = nll(m, lora, first_expert(m, lora, table, w));
      EXPECT_LT(apart(nll(m, e, w), dense), kTolerance) << "K " << active;
    }
  }
}

// With all experts kept, the gates of softmax_topk sum to one too, and E/K is one.
TEST(Mixing, OrdersAgreeWhenAllExpertsAreActive) {
  ModelConfig const m = tiny_model(false, 4);
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    ExpertConfig const topk = tiny_experts(4, 4, mix, RouterOrder::topk_softmax);
    ExpertConfig const first = tiny_experts(4, 4, mix, RouterOrder::softmax_topk);
    auto const w = random_weights<double>(ParameterTable(m, topk), 22);
    EXPECT_LT(apart(nll(m, topk, w), nll(m, first, w)), kTolerance);
  }
}

TEST(Mixing, FormsAgreeForOneActiveExpertAndForEqualExperts) {
  ModelConfig const m = tiny_model(true, 2);
  for (Index const active : {1, 2, 5}) {
    ExpertConfig const branch = tiny_experts(5, active, LoraMix::branch, RouterOrder::topk_softmax);
    ExpertConfig ffn = branch;
    ffn.mix = LoraMix::ffn;
    ParameterTable const table(m, branch);
    auto const w = random_weights<double>(table, 23);
    double const different = apart(nll(m, branch, w), nll(m, ffn, w));
    if (active == 1) {
      EXPECT_LT(different, kTolerance);
    } else {
      EXPECT_GT(different, 1e-3) << "the forms differ when unlike experts are mixed";
    }
    make_experts_equal(table, w, branch.count);
    EXPECT_LT(apart(nll(m, branch, w), nll(m, ffn, w)), kTolerance) << "K " << active;
  }
}

// A zero router under softmax_topk: K gates of (1/E)(E/K) = 1/K over equal experts give one of them.
TEST(Mixing, AZeroRouterStartsWholeInBothOrders) {
  ModelConfig const m = tiny_model(true, 2);
  ExpertConfig const lora = tiny_experts(1, 1, LoraMix::branch, RouterOrder::topk_softmax);
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    for (auto const order : {RouterOrder::topk_softmax, RouterOrder::softmax_topk}) {
      ExpertConfig const e = tiny_experts(5, 2, mix, order);
      ParameterTable const table(m, e);
      auto const w = random_weights<double>(table, 24);
      make_experts_equal(table, w, e.count);
      Kokkos::deep_copy(w.router, 0.0);
      EXPECT_LT(apart(nll(m, e, w), nll(m, lora, first_expert(m, lora, table, w))), kTolerance);
    }
  }
}

TEST(Mixing, ChoicesAndCountsAgree) {
  ModelConfig const m = tiny_model(true, 2);
  HostBatch const& host = batch_of();
  Index const n = host.tokens();
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    ExpertConfig const e = tiny_experts(5, 2, mix, RouterOrder::topk_softmax);
    ParameterTable const table(m, e);
    auto const w = random_weights<double>(table, 25);
    Transformer<double> transformer(m, e, table, n, false);
    Batch batch(n);
    batch.assign(host);
    transformer.forward(Exec(), w, batch, {}, View1<double>());
    auto const choices = transformer.router_choices();
    auto const& counts = transformer.router_counts();
    ASSERT_EQ(static_cast<Index>(choices.size()), m.layers * n * e.active);
    std::vector<double> assigned(static_cast<std::size_t>(m.layers * e.count), 0.0);
    for (std::size_t i = 0; i < choices.size(); i += 2) {
      ASSERT_NE(choices[i], choices[i + 1]);
      auto const layer = static_cast<std::size_t>(static_cast<Index>(i) / (n * e.active));
      for (std::size_t k = i; k < i + 2; ++k) {
        ASSERT_TRUE(choices[k] >= 0 && choices[k] < e.count);
        assigned[layer * 5 + static_cast<std::size_t>(choices[k])] += 1.0;
      }
    }
    EXPECT_EQ(counts.assigned, assigned);
    EXPECT_EQ(counts.tokens, static_cast<double>(n));
    for (std::size_t l = 0; l < 2; ++l) {
      double sum = 0.0;
      for (std::size_t i = 0; i < 5; ++i) sum += counts.probability[l * 5 + i];
      EXPECT_NEAR(sum, static_cast<double>(n), 1e-12 * static_cast<double>(n));
      EXPECT_GT(counts.entropy[l], 0.0);
      EXPECT_LE(counts.entropy[l], static_cast<double>(n) * std::log(5.0));
    }
  }
}

}  // namespace
}  // namespace upit::test
