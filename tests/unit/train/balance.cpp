// SPDX-License-Identifier: Apache-2.0
// Owns tests of the load-balancing loss of FFN experts as a step reports it: its values where they are known,
// its bounds, its gradient.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/tiny_training.hpp"

namespace upit::test {
namespace {

/// Router logits of every token of the vocabulary: [token][expert].
using LogitTable = std::vector<std::vector<double>>;

/// A model whose router logits are given: each token's embedding is a channel of its own and the blocks add
/// nothing to it, so that column v of the router is all that token v meets, in every layer.
class KnownRouter {
 public:
  KnownRouter(Index count, Index active, RouterOrder order)
      : model_(tiny_model(true, 2)),
        expert_(tiny_ffn_experts(count, active, order)),
        comm_(Communicator::world()),
        trainer_(comm_, model_, expert_, Trained{true, true, true}, kTrainingContext, TrainerOptions{}) {
    // Weights start at zero: attention and experts stay so.
    std::vector<double> embedding(static_cast<std::size_t>(model_.vocabulary * model_.width));
    for (Index v = 0; v < model_.width; ++v)
      embedding[static_cast<std::size_t>(v * (model_.width + 1))] = 1.0;
    put("embedding", embedding);
    for (Index l = 0; l < model_.layers; ++l) {
      put("layers." + std::to_string(l) + ".ffn_norm",
          std::vector<double>(static_cast<std::size_t>(model_.width), 1.0));
    }
  }

  void set_logits(Index layer, LogitTable const& logits) {
    double const channel = 1.0 / std::sqrt(1.0 / static_cast<double>(model_.width) + model_.norm_eps);
    std::vector<double> router(static_cast<std::size_t>(expert_.count * model_.width));
    for (std::size_t v = 0; v < logits.size(); ++v) {
      for (std::size_t e = 0; e < logits[v].size(); ++e) {
        router[e * static_cast<std::size_t>(model_.width) + v] = logits[v][e] / channel;
      }
    }
    put("layers." + std::to_string(layer) + ".router", router);
  }
  void set_logits(LogitTable const& logits) {
    for (Index l = 0; l < model_.layers; ++l) set_logits(l, logits);
  }

  /// One step that feeds each list of tokens as a micro-step of its own, and changes no weight.
  StepReport step(std::vector<std::vector<int>> const& parts) {
    TokenStore store;
    store.domains = {"all"};
    std::vector<MicroStep> micro;
    for (auto fed : parts) {
      MicroStep m;
      m.tokens = m.targets = static_cast<Index>(fed.size());
      m.per_rank = {{Sequence{{store.size()}}}};
      micro.push_back(m);
      fed.push_back(0);  // only predicted
      store.append(fed, 1, 0);
    }
    return trainer_.step(store, micro, 0, 0.0);
  }

  Index layers() const { return model_.layers; }
  Index width() const { return model_.width; }

 private:
  void put(std::string const& name, std::vector<double> const& value) {
    auto const view = trainer_.weights().tensor(trainer_.table().find(name));
    ASSERT_EQ(view.extent(0), value.size());
    auto const host = Kokkos::create_mirror_view(view);
    std::copy(value.begin(), value.end(), host.data());
    Kokkos::deep_copy(view, host);
  }

  ModelConfig model_;
  ExpertConfig expert_;
  Communicator comm_;
  Trainer<double> trainer_;
};

/// E * sum_e f_e P_e of one layer over `fed` (DESIGN section 2), in plain loops.
double plain_balance(LogitTable const& logits, std::vector<int> const& fed, Index active) {
  std::size_t const experts = logits.front().size();
  std::vector<double> assigned(experts), probability(experts);
  for (int const v : fed) {
    auto const& s = logits[static_cast<std::size_t>(v)];
    std::vector<std::size_t> rank(experts);
    std::iota(rank.begin(), rank.end(), 0);
    std::stable_sort(rank.begin(), rank.end(), [&](auto a, auto b) { return s[a] > s[b]; });
    for (Index k = 0; k < active; ++k) assigned[rank[static_cast<std::size_t>(k)]] += 1.0;
    double sum = 0.0;
    for (double const x : s) sum += std::exp(x);
    for (std::size_t e = 0; e < experts; ++e) probability[e] += std::exp(s[e]) / sum;
  }
  auto const tokens = static_cast<double>(fed.size());
  double balance = 0.0;
  for (std::size_t e = 0; e < experts; ++e) {
    balance += assigned[e] / (tokens * static_cast<double>(active)) * probability[e] / tokens;
  }
  return static_cast<double>(experts) * balance;
}

class BalanceLoss : public ::testing::TestWithParam<RouterOrder> {};

// Some ten roundings a token, and logits good to 1e-15 of themselves: at most 40, so 1e-13 covers it.
constexpr double kRounding = 1e-13;

// Token v prefers expert v, then v + 1, ...: every expert gets the same share of tokens and of probability,
// be the router nearly undecided or sure of itself.
TEST_P(BalanceLoss, UniformRoutingGivesOne) {
  for (Index const active : {1, 2, 3}) {
    KnownRouter router(4, active, GetParam());
    for (double const slope : {1e-6, 0.3, 2.0, 13.0}) {
      LogitTable logits(4, std::vector<double>(4));
      for (std::size_t v = 0; v < 4; ++v) {
        for (std::size_t e = 0; e < 4; ++e) logits[v][e] = -slope * static_cast<double>((e + 4 - v) % 4);
      }
      router.set_logits(logits);
      StepReport const report = router.step({{0, 1, 2, 3, 3, 2, 1, 0, 1, 3, 0, 2}});
      EXPECT_NEAR(report.balance, 1.0, kRounding) << "K " << active << ", slope " << slope;
      for (double const assigned : report.load.assigned) {
        EXPECT_EQ(assigned, 3.0 * static_cast<double>(active));
      }
      EXPECT_NEAR(report.load.imbalance(router.layers(), 4), 1.0, kRounding);
    }
  }
}

// Even probabilities alone are enough: whoever gets the tokens, sum f_e / E * E = 1.
TEST_P(BalanceLoss, EvenProbabilitiesGiveOneWhereTiesSendAllToTheFirst) {
  KnownRouter router(5, 2, GetParam());
  router.set_logits(LogitTable(12, std::vector<double>(5, 0.7)));
  StepReport const report = router.step({{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}});
  EXPECT_NEAR(report.balance, 1.0, kRounding);
  EXPECT_NEAR(report.load.imbalance(router.layers(), 5), 2.5, kRounding);
  EXPECT_EQ(report.load.dead(), 3 * router.layers());
}

// With K logits at s and the others at 0 the loss is E e^s / (K e^s + E - K), which is short of E/K by less
// than (E/K) (E/K - 1) e^-s.
TEST_P(BalanceLoss, FullCollapseReachesExpertsOverActive) {
  Index const experts = 5;
  for (Index const active : {1, 2, 4}) {
    KnownRouter router(experts, active, GetParam());
    double const most = static_cast<double>(experts) / static_cast<double>(active);
    double before = 1.0;
    for (double const s : {0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 40.0}) {
      std::vector<double> row(5, 0.0);
      std::fill(row.end() - active, row.end(), s);
      router.set_logits(LogitTable(12, row));
      StepReport const report = router.step({{3, 3, 7, 0, 11, 3, 5}});
      double const exact =
          static_cast<double>(experts) /
          (static_cast<double>(active) + static_cast<double>(experts - active) * std::exp(-s));
      EXPECT_NEAR(report.balance, exact, kRounding * most) << "K " << active << ", s " << s;
      EXPECT_GT(report.balance, before) << "K " << active << ", s " << s;
      EXPECT_LT(most - report.balance, most * (most - 1.0) * std::exp(-s) + kRounding * most);
      EXPECT_LE(report.balance, most * (1.0 + kRounding));
      EXPECT_EQ(report.load.dead(), (experts - active) * router.layers());
      before = std::min(report.balance, most * (1.0 - 1e-6));  // beyond that, growth drowns in rounding
    }
    EXPECT_NEAR(before, most, 1.1e-6 * most) << "the limit was not reached";
  }
}

// Tokens that hardly prefer expert 0 give it their count, a sure one gives expert 1 its probability:
// f = (3/4, 1/4), P = (3/8, 5/8), and 2 (9/32 + 5/32) = 7/8.
TEST_P(BalanceLoss, OneIsNotAMinimum) {
  KnownRouter router(2, 1, GetParam());
  router.set_logits({{1e-14, 0.0}, {-40.0, 0.0}});
  EXPECT_NEAR(router.step({{0, 1, 0, 0}}).balance, 0.875, kRounding);
}

// Layers that route differently, micro-steps of unequal length: mean over both, each micro-step with the
// shares of its own tokens.
TEST_P(BalanceLoss, IsTheMeanOverLayersAndMicroSteps) {
  Index const experts = 6, active = 2;
  KnownRouter router(experts, active, GetParam());
  std::vector<std::vector<int>> const parts = {{4, 4, 9, 0, 2}, {7}, {1, 8, 3, 3, 11, 5, 6, 10, 0}};
  for (double const size : {0.1, 1.0, 10.0}) {
    RandomKey const key = random_key(3, "balance");
    std::uint64_t n = 0;
    double expected = 0.0;
    for (Index l = 0; l < router.layers(); ++l) {
      LogitTable logits(static_cast<std::size_t>(router.width()), std::vector<double>(experts));
      for (auto& row : logits) {
        for (double& x : row) x = size * (2.0 * random_uniform(key, n++) - 1.0);
      }
      router.set_logits(l, logits);
      for (auto const& fed : parts) expected += plain_balance(logits, fed, active);
    }
    StepReport const report = router.step(parts);
    EXPECT_NEAR(report.balance, expected / static_cast<double>(router.layers() * 3), kRounding * 3.0);
    EXPECT_LE(report.balance, 3.0);
  }
}

/// Of the balance loss alone: the language-model loss has weight zero.
struct LoneBalance {
  LoneBalance(Index count, Index active, RouterOrder order, double coefficient)
      : model(tiny_model(false, 2)),
        comm(Communicator::world()),
        store(tiny_store(14, model.vocabulary, 2, kTrainingContext + 1)),
        plan(store, kTrainingContext, false, 6, 2, 4),
        trainer(comm, model, tiny_ffn_experts(count, active, order), Trained{true, true, true},
                plan.max_tokens_per_rank(1), options(coefficient)) {
    copy(trainer.weights(), random_weights<double>(trainer.table(), 6));
  }
  static TrainerOptions options(double coefficient) {
    TrainerOptions o;
    o.language_weight = 0.0;
    o.balance = coefficient;
    return o;
  }
  StepReport step() { return trainer.step(store, plan.step(0, 0, 1, false), 0, 0.0); }

  ModelConfig model;
  Communicator comm;
  TokenStore store;
  BatchPlan plan;
  Trainer<double> trainer;
};

// f_e is constant between flips of a choice, so that differences see the gradient through P_e alone. The seed
// keeps every token further from a flip than the differences reach.
TEST_P(BalanceLoss, GradientMatchesCentralDifferences) {
  for (Index const active : {1, 2}) {
    double const coefficient = 0.7;
    LoneBalance b(5, active, GetParam(), coefficient);
    ASSERT_EQ(b.plan.step(0, 0, 1, false).size(), 3u);
    auto const assigned = b.step().load.assigned;
    auto const gradient = flat(b.trainer.gradient());
    double const h = 1e-5;
    for (auto const& t : b.trainer.table().tensors()) {
      double* const data = t.group == Group::router ? b.trainer.weights().router.data() + t.offset
                                                    : b.trainer.weights().tensor(t).data();
      auto const begin = gradient.begin() + t.gradient_offset;
      double const largest = std::abs(*std::max_element(
          begin, begin + t.size(), [](double x, double y) { return std::abs(x) < std::abs(y); }));
      // Nothing above the last router has a part in the loss.
      bool const above =
          t.name == "norm" || t.name == "head" || (t.layer == b.model.layers - 1 && t.group == Group::expert);
      if (above) {
        EXPECT_EQ(largest, 0.0) << t.name;
      } else {
        EXPECT_GT(largest, 1e-5) << t.name << " has no gradient";
      }
      for (std::uint64_t probe = 0; probe < 5; ++probe) {
        auto const i = static_cast<Index>(
            random_below(random_key(4, t.name), probe, static_cast<std::uint64_t>(t.size())));
        double const saved = get(data + i);
        test::put(data + i, saved + h);
        StepReport const up = b.step();
        test::put(data + i, saved - h);
        StepReport const down = b.step();
        test::put(data + i, saved);
        ASSERT_TRUE(up.load.assigned == assigned && down.load.assigned == assigned)
            << "a choice flips at " << t.name << " element " << i << ": take another seed";
        double const expected = coefficient * (up.balance - down.balance) / (2.0 * h);
        // Central differences err by h^2 f'''/6 + eps f / h: about 1e-10 for a loss near 1.
        EXPECT_NEAR(gradient[static_cast<std::size_t>(t.gradient_offset + i)], expected,
                    5e-10 + 1e-6 * std::abs(expected))
            << "K " << active << ": " << t.name << " element " << i;
      }
    }
  }
}

// Every token to every expert: f_e = 1/E, so that the loss is sum_e P_e = 1 whatever the router says.
TEST_P(BalanceLoss, IsConstantWhereEveryExpertIsActive) {
  LoneBalance b(4, 4, GetParam(), 1.0);
  StepReport const report = b.step();
  EXPECT_NEAR(report.balance, 1.0, kRounding);
  EXPECT_LT(report.norm, 1e-14);
}

INSTANTIATE_TEST_SUITE_P(, BalanceLoss,
                         ::testing::Values(RouterOrder::topk_softmax, RouterOrder::softmax_topk),
                         [](auto const& info) {
                           return info.param == RouterOrder::topk_softmax ? "topk_softmax" : "softmax_topk";
                         });

}  // namespace
}  // namespace upit::test
