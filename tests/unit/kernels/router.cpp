// SPDX-License-Identifier: Apache-2.0
// Tests the router against sorted double loops and central differences.
#include "upit/kernels/router.hpp"

#include <numeric>

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

// Relative error of the kernels' sums in double of terms of one sign: blocks of 1024, at worst 1024
// roundings.
double const kSumRoundings = roundings<double>(1024);

struct Routed {
  std::vector<int> expert;
  std::vector<double> gate, probability;
};

std::vector<double> softmax(std::vector<double> const& x) {
  double const largest = *std::max_element(x.begin(), x.end());
  std::vector<double> y;
  double sum = 0;
  for (double v : x) y.push_back(std::exp(v - largest)), sum += y.back();
  for (double& v : y) v /= sum;
  return y;
}

Routed reference(std::vector<double> const& logits, Index tokens, Index experts, Index active,
                 bool softmax_first, double scale) {
  Routed r;
  for (Index n = 0; n < tokens; ++n) {
    std::vector<double> const s(logits.begin() + n * experts, logits.begin() + (n + 1) * experts);
    std::vector<int> id(static_cast<std::size_t>(experts));
    std::iota(id.begin(), id.end(), 0);
    std::stable_sort(id.begin(), id.end(), [&](int a, int b) {
      return s[static_cast<std::size_t>(a)] > s[static_cast<std::size_t>(b)];
    });
    id.resize(static_cast<std::size_t>(active));
    auto const p = softmax(s);
    std::vector<double> kept;
    for (int e : id) kept.push_back(s[static_cast<std::size_t>(e)]);
    auto g = softmax(kept);
    if (softmax_first) {
      for (std::size_t k = 0; k < g.size(); ++k) g[k] = scale * p[static_cast<std::size_t>(id[k])];
    }
    r.expert.insert(r.expert.end(), id.begin(), id.end());
    r.gate.insert(r.gate.end(), g.begin(), g.end());
    r.probability.insert(r.probability.end(), p.begin(), p.end());
  }
  return r;
}

template <class R>
struct Outputs {
  View2<int> expert;
  View2<R> gate, probability;
  Outputs(Index tokens, Index experts, Index active)
      : expert("e", tokens, active), gate("g", tokens, active), probability("p", tokens, experts) {}
};

template <class R>
class RouterTest : public ::testing::Test {};
TYPED_TEST_SUITE(RouterTest, Reals);

TYPED_TEST(RouterTest, ChoosesAndGates) {
  using R = TypeParam;
  for (Index const tokens : {0, 1, 7, 300}) {
    for (Index const experts : {1, 2, 8, 33}) {
      for (Index const active : {Index{1}, std::min<Index>(2, experts), experts}) {
        for (bool const first : {false, true}) {
          // Tenths of a small range: ties in most rows.
          auto logits = normal<R>(tokens * experts, 1);
          for (R& s : logits) s = std::round(s * R(10)) / R(10);
          auto const expected = reference(to_double(logits), tokens, experts, active, first, 1.75);
          Outputs<R> const out(tokens, experts, active);
          kernels::router_topk<R>(Exec(), first, R(1.75), to_view(logits, tokens, experts), out.expert,
                                  out.gate, out.probability);
          ASSERT_EQ(to_vector(out.expert), expected.expert);
          // exp of two roundings and one of its argument (below 10 in size), a sum of up to 33, a division
          double const tol = roundings<R>(40);
          expect_near_all(to_vector(out.gate), expected.gate, tol, 0, "gate");
          expect_near_all(to_vector(out.probability), expected.probability, tol, 0, "probability");
        }
      }
    }
  }
}

TYPED_TEST(RouterTest, LargeLogitsAndEqualLogits) {
  using R = TypeParam;
  std::vector<R> const logits = {1e4, -1e4, 9999, 0, 2, 2, 2, 2};
  Outputs<R> const out(2, 4, 3);
  kernels::router_topk<R>(Exec(), false, R(1), to_view(logits, 2, 4), out.expert, out.gate, out.probability);
  EXPECT_EQ(to_vector(out.expert), (std::vector<int>{0, 2, 3, 0, 1, 2}));
  auto const expected = reference(to_double(logits), 2, 4, 3, false, 1);
  expect_near_all(to_vector(out.gate), expected.gate, roundings<R>(20), 1e-30, "gate");
  expect_near_all(to_vector(out.probability), expected.probability, roundings<R>(20), 1e-30, "probability");
}

TYPED_TEST(RouterTest, NanKeepsIdsInRangeAndShowsInProbability) {
  using R = TypeParam;
  R const nan = std::numeric_limits<R>::quiet_NaN();
  R const infinity = std::numeric_limits<R>::infinity();
  std::vector<R> const logits = {nan, nan, nan, nan, 1, nan, 2, -infinity};
  Outputs<R> const out(2, 4, 3);
  kernels::router_topk<R>(Exec(), false, R(1), to_view(logits, 2, 4), out.expert, out.gate, out.probability);
  EXPECT_EQ(to_vector(out.expert), (std::vector<int>{0, 1, 2, 2, 0, 1}));
  for (R const p : to_vector(out.probability)) EXPECT_TRUE(std::isnan(p));
}

// sum of c * gate + sum over tokens of balance . probability, as a function of the logits
double loss_of(std::vector<double> const& logits, Index tokens, Index experts, Index active, bool first,
               std::vector<double> const& c, std::vector<double> const& balance) {
  Outputs<double> const out(tokens, experts, active);
  kernels::router_topk<double>(Exec(), first, 1.75, to_view(logits, tokens, experts), out.expert, out.gate,
                               out.probability);
  double loss = dot(to_vector(out.gate), c);
  auto const p = to_vector(out.probability);
  for (std::size_t i = 0; i < p.size() && !balance.empty(); ++i) loss += balance[i % balance.size()] * p[i];
  return loss;
}

TEST(Router, BackwardIsTheDerivative) {
  for (Index const tokens : {0, 1, 5}) {
    for (Index const experts : {1, 3, 8}) {
      for (Index const active : {Index{1}, std::min<Index>(2, experts), experts}) {
        for (bool const first : {false, true}) {
          for (bool const balanced : {false, true}) {
            auto const logits = normal<double>(tokens * experts, 2);
            auto const c = normal<double>(tokens * active, 3);
            auto const balance = normal<double>(balanced ? experts : 0, 4);
            Outputs<double> const out(tokens, experts, active);
            kernels::router_topk<double>(Exec(), first, 1.75, to_view(logits, tokens, experts), out.expert,
                                         out.gate, out.probability);
            auto const dlogits = to_view(std::vector<double>(logits.size(), 1e3), tokens, experts);
            kernels::router_backward<double>(Exec(), first, 1.75, out.probability, out.expert, out.gate,
                                             to_view(c, tokens, active), to_view(balance), dlogits);
            expect_gradient(
                [&](auto const& x) { return loss_of(x, tokens, experts, active, first, c, balance); }, logits,
                to_vector(dlogits), "dlogits");
          }
        }
      }
    }
  }
}

TEST(Router, BackwardInFloatAgreesWithDouble) {
  Index const tokens = 100, experts = 8, active = 2;
  auto const logits = normal<float>(tokens * experts, 2);
  auto const c = normal<float>(tokens * active, 3);
  auto const balance = normal<float>(experts, 4);
  for (bool const first : {false, true}) {
    auto const run = [&]<class R>(R) {
      Outputs<R> const out(tokens, experts, active);
      View2<R> const dlogits("d", tokens, experts);
      auto const as = [](std::vector<float> const& x) { return std::vector<R>(x.begin(), x.end()); };
      kernels::router_topk<R>(Exec(), first, R(4), to_view(as(logits), tokens, experts), out.expert, out.gate,
                              out.probability);
      kernels::router_backward<R>(Exec(), first, R(4), out.probability, out.expert, out.gate,
                                  to_view(as(c), tokens, active), to_view(as(balance)), dlogits);
      return to_vector(dlogits);
    };
    // differences of numbers up to scale * |c| = 16 with some ten roundings before
    expect_near_all(run(0.0f), run(0.0), 0, roundings<float>(20, 16), "dlogits");
  }
}

TYPED_TEST(RouterTest, Statistics) {
  using R = TypeParam;
  for (Index const tokens : {0, 1, 7, 2500}) {
    for (Index const experts : {1, 3, 8}) {
      Index const active = std::min<Index>(2, experts);
      auto const logits = normal<R>(tokens * experts, 5);
      Outputs<R> const out(tokens, experts, active);
      kernels::router_topk<R>(Exec(), false, R(1), to_view(logits, tokens, experts), out.expert, out.gate,
                              out.probability);
      std::vector<double> const garbage(static_cast<std::size_t>(experts), 1e9);
      auto const assigned = to_view(garbage), sum = to_view(garbage);
      auto const entropy = to_view(std::vector<double>{1e9});
      kernels::router_statistics<R>(Exec(), out.expert, out.probability, assigned, sum, entropy);

      std::vector<double> count(static_cast<std::size_t>(experts));
      std::vector<long double> mass(count.size());
      long double total = 0;
      for (int e : to_vector(out.expert)) count[static_cast<std::size_t>(e)] += 1;
      auto const p = to_vector(out.probability);
      for (std::size_t i = 0; i < p.size(); ++i) {
        auto const q = static_cast<long double>(p[i]);
        mass[i % static_cast<std::size_t>(experts)] += q;
        total -= q * std::log(q);
      }
      EXPECT_EQ(to_vector(assigned), count);
      expect_near_all(to_vector(sum), to_double(mass), kSumRoundings, 0, "probability_sum");
      // a logarithm and a product in R per term; terms of one sign (that of p = 1 is zero but for rounding)
      expect_near_all(to_vector(entropy), {static_cast<double>(total)}, roundings<R>(4) + kSumRoundings,
                      roundings<R>(static_cast<double>(tokens)), "entropy");
    }
  }
}

TEST(Router, StatisticsOfZeroAndNanProbability) {
  std::vector<int> const expert = {0, 0};
  View1<double> const assigned("a", 2), sum("s", 2), entropy("e", 1);
  kernels::router_statistics<double>(Exec(), to_view(expert, 2, 1),
                                     to_view(std::vector<double>{1, 0, 0.5, 0.5}, 2, 2), assigned, sum,
                                     entropy);
  EXPECT_NEAR(to_vector(entropy)[0], std::log(2.0), 1e-15);
  double const nan = std::numeric_limits<double>::quiet_NaN();
  kernels::router_statistics<double>(Exec(), to_view(expert, 2, 1),
                                     to_view(std::vector<double>{1, 0, nan, nan}, 2, 2), assigned, sum,
                                     entropy);
  EXPECT_TRUE(std::isnan(to_vector(entropy)[0]));
}

TYPED_TEST(RouterTest, Auxiliary) {
  using R = TypeParam;
  for (Index const tokens : {0, 1, 9, 3000}) {
    for (bool const positive : {true, false}) {
      auto logit = normal<R>(tokens, 6);
      if (tokens >= 9) logit[1] = 0, logit[2] = 1000, logit[3] = -1000, logit[4] = 40, logit[5] = -40;
      View1<R> const dlogit("d", tokens);
      auto const loss = to_view(std::vector<double>{0.5});
      kernels::auxiliary_router<R>(Exec(), to_view(logit), positive, R(0.25), dlogit, loss);

      std::vector<double> gradient;
      long double sum = 0.5;
      double const sign = positive ? 1 : -1;
      for (R const s : logit) {
        double const z = sign * static_cast<double>(s);
        sum += std::log1p(std::exp(-std::abs(static_cast<long double>(z)))) + (z < 0 ? -z : 0.0);
        double const away = z > 0 ? std::exp(-z) / (1 + std::exp(-z)) : 1 / (1 + std::exp(z));
        gradient.push_back(-sign * 0.25 * away);
      }
      expect_near_all(to_vector(dlogit), gradient, roundings<R>(8), 1e-30, "dlogit");
      expect_near_all(to_vector(loss), {static_cast<double>(sum)}, roundings<R>(4) + kSumRoundings, 0,
                      "loss");
    }
  }
}

TEST(Router, AuxiliaryGradientIsTheDerivative) {
  for (bool const positive : {true, false}) {
    auto const logit = normal<double>(9, 7);
    View1<double> const dlogit("d", 9), loss("l", 1);
    kernels::auxiliary_router<double>(Exec(), to_view(logit), positive, 1.0, dlogit, loss);
    auto const f = [&](std::vector<double> const& x) {
      View1<double> const unused("u", 9), sum("s", 1);
      kernels::auxiliary_router<double>(Exec(), to_view(x), positive, 1.0, unused, sum);
      return to_vector(sum)[0];
    };
    expect_gradient(f, logit, to_vector(dlogit), "dlogit");
  }
}

TEST(Router, RefusesWrongShapes) {
  Outputs<float> const out(2, 4, 2), wide(2, 4, 5);
  View2<float> const logits("l", 2, 4), other("o", 3, 4);
  EXPECT_THROW(kernels::router_topk<float>(Exec(), false, 1, other, out.expert, out.gate, out.probability),
               std::logic_error);
  EXPECT_THROW(
      kernels::router_topk<float>(Exec(), false, 1, logits, wide.expert, wide.gate, wide.probability),
      std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
