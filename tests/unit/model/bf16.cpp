// SPDX-License-Identifier: Apache-2.0
// Owns the check of the whole model in 16-bit storage against the same model in double on the same rounded
// weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/bf16.hpp"
#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

struct Bf16Case {
  std::string name;
  TinyCase tiny;
  double dropout = 0.0;
};

using Bf16Model = Bf16Test<Bf16Case>;

/// Weights that both types hold exactly.
struct SameWeights {
  Weights<bfloat16> half;
  Weights<double> wide;

  explicit SameWeights(ParameterTable const& table) : half(table), wide(table) {
    auto const start = random_weights<float>(table, 7);
    auto const round = [](View1<float> const& from, View1<bfloat16> const& to, View1<double> const& also) {
      std::vector<bfloat16> half;
      std::vector<double> wide;
      for (float const value : flat(from)) {
        half.push_back(bfloat16(value));
        wide.push_back(static_cast<double>(static_cast<float>(half.back())));
      }
      put_all(to.data(), half);
      put_all(also.data(), wide);
    };
    round(start.backbone, half.backbone, wide.backbone);
    round(start.expert, half.expert, wide.expert);
    Kokkos::deep_copy(half.router, start.router);
    auto const router = flat(start.router);
    put_all(wide.router.data(), std::vector<double>(router.begin(), router.end()));
  }
};

struct Pass {
  double nll = 0.0;
  std::vector<double> logits, gradient;
  std::vector<int> choices;
};

template <class T>
Pass run(Bf16Case const& c, ParameterTable const& table, Weights<T> const& weights, HostBatch const& host) {
  Exec const exec;
  Batch batch(host.tokens());
  batch.assign(host);
  Transformer<T> model(c.tiny.model, c.tiny.expert, table, host.tokens(), true);
  if (c.tiny.expert.router == RouterUse::auxiliary) model.set_auxiliary({0.01, true});
  PassOptions options;
  options.train = true;
  options.seed = 5;
  options.loss_scale = 1.0 / static_cast<double>(host.targets());
  View1<Real<T>> const gradient("gradient", table.gradient_extent());
  Pass out;
  out.nll = model.forward(exec, weights, batch, options, gradient);
  std::vector<int> rows;
  for (Index n = 0; n < host.tokens(); ++n) rows.push_back(static_cast<int>(n));
  out.logits = model.logits(exec, weights, rows);
  out.choices = model.router_choices();
  std::vector<double> const balance(
      at(c.tiny.expert.router == RouterUse::gate ? c.tiny.model.layers * c.tiny.expert.count : 0), 1e-3);
  model.backward(exec, weights, batch, options, balance, gradient);
  exec.fence();
  auto const host_gradient = flat(gradient);
  out.gradient.assign(host_gradient.begin(), host_gradient.end());
  return out;
}

/// Each token's experts, in no order: gates follow the logits, not their order.
std::vector<int> chosen(Pass const& pass, Index active) {
  std::vector<int> experts = pass.choices;
  for (std::size_t first = 0; first + at(active) <= experts.size(); first += at(active)) {
    auto const begin = experts.begin() + static_cast<std::ptrdiff_t>(first);
    std::sort(begin, begin + active);
  }
  return experts;
}

TEST_P(Bf16Model, IsTheModelInDoubleWithinItsRoundings) {
  Bf16Case c = GetParam();
  c.tiny.expert.dropout = c.dropout;
  ParameterTable const table(c.tiny.model, c.tiny.expert, c.tiny.trained);
  SameWeights const weights(table);
  // What follows a choice of expert that falls otherwise is another number: the first batch in which no
  // token's choices tie within rounding. Dense models take the first.
  Pass got, want;
  bool same = false;
  for (std::uint64_t seed = 3; seed < 23 && !same; ++seed) {
    HostBatch const host = random_batch({5, 1, 11, 3}, c.tiny.model.vocabulary, seed);
    got = run(c, table, weights.half, host);
    want = run(c, table, weights.wide, host);
    same = chosen(got, c.tiny.expert.active) == chosen(want, c.tiny.expert.active);
  }
  ASSERT_TRUE(same);
  double const logits = distance(got.logits, want.logits) / norm(want.logits);
  double const gradient = distance(got.gradient, want.gradient) / norm(want.gradient);
  EXPECT_LE(logits, rounding_band(c.tiny.model.layers, false));
  EXPECT_GT(logits, 0x1p-12);  // it was computed in 16 bits
  EXPECT_LE(gradient, rounding_band(c.tiny.model.layers, true));
  // The loss is a mean over positions, whose errors average out.
  EXPECT_NEAR(got.nll, want.nll, rounding_band(c.tiny.model.layers, false) * want.nll);
}

std::vector<Bf16Case> cases() {
  auto const topk = RouterOrder::topk_softmax, first = RouterOrder::softmax_topk;
  Trained const all{true, true, true}, experts{false, true, true}, lora{false, true, false};
  std::vector<Bf16Case> list;
  list.push_back({"dense_tied", {tiny_model(true, 2), {}, {true, false, false}}});
  list.push_back({"dense_untied", {tiny_model(false, 4), {}, {true, false, false}}});
  list.push_back({"lora", {tiny_model(true, 2), tiny_experts(1, 1, LoraMix::branch, topk), lora}, 0.2});
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    std::string const name = mix == LoraMix::branch ? "branch" : "ffn";
    list.push_back({name, {tiny_model(true, 2), tiny_experts(5, 2, mix, topk), experts}});
    list.push_back({name + "_dropout", {tiny_model(false, 2), tiny_experts(5, 3, mix, first), all}, 0.2});
  }
  list.push_back({"ffn_experts", {tiny_model(true, 2), tiny_ffn_experts(5, 2, topk), all}});
  list.push_back(
      {"ffn_auxiliary", {tiny_model(true, 2), tiny_ffn_experts(1, 1, topk, RouterUse::auxiliary), experts}});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Cases, Bf16Model, ::testing::ValuesIn(cases()),
                         [](auto const& info) { return info.param.name; });

}  // namespace
}  // namespace upit::test
