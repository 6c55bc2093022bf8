// SPDX-License-Identifier: Apache-2.0
// Owns the check of the whole model in 16-bit storage against the same model in double on the same rounded
// weights.
#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_model.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit::test {
namespace {

struct Bf16Case {
  std::string name;
  TinyCase tiny;
  double dropout = 0.0;
};

class Bf16Model : public ::testing::TestWithParam<Bf16Case> {
 protected:
  void SetUp() override {
    if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  }
};

/// Weights that both types hold exactly.
struct SameWeights {
  Weights<bfloat16> half;
  Weights<double> wide;

  explicit SameWeights(ParameterTable const& table) : half(table), wide(table) {
    auto const start = random_weights<float>(table, 7);
    auto const round = [](View1<float> const& from, View1<bfloat16> const& to, View1<double> const& also) {
      auto const values = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), from);
      std::vector<bfloat16> narrow;
      std::vector<double> same;
      for (std::size_t i = 0; i < values.extent(0); ++i) {
        narrow.push_back(bfloat16(values(i)));
        same.push_back(static_cast<double>(static_cast<float>(narrow.back())));
      }
      put_all(to.data(), narrow);
      put_all(also.data(), same);
    };
    round(start.backbone, half.backbone, wide.backbone);
    round(start.expert, half.expert, wide.expert);
    auto const router = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), start.router);
    Kokkos::deep_copy(half.router, start.router);
    put_all(wide.router.data(), std::vector<double>(router.data(), router.data() + router.extent(0)));
  }
};

double norm(std::vector<double> const& x) {
  double sum = 0.0;
  for (double const v : x) sum += v * v;
  return std::sqrt(sum);
}

double distance(std::vector<double> a, std::vector<double> const& b) {
  EXPECT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b.at(i);
  return norm(a);
}

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
  auto const host_gradient = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), gradient);
  out.gradient.assign(host_gradient.data(), host_gradient.data() + host_gradient.extent(0));
  return out;
}

// A number is rounded 11 times a layer on its way through the residual stream, attention and FFN (three
// norms' worth of sums and outputs, q k v, rotary, attention, gate and up, activation, two branches) and
// three times around the last norm; its gradient as often again. A rounding to 8 bits errs by at most 2^-8 of
// the value, 2^-8 / sqrt(6) in the mean square of values spread over a binade; independent errors add in
// squares, and what amplifies them (norms of vectors of a dozen numbers, the softmax) is bounded by 2 here. A
// sum that was held in 16 bits over the model's dozen terms would add a dozen roundings to each of these.
double band(Index layers, bool backward) {
  double const roundings = static_cast<double>(11 * layers + 3) * (backward ? 2.0 : 1.0);
  return 2.0 * std::sqrt(roundings / 6.0) * 0x1p-8;
}

TEST_P(Bf16Model, IsTheModelInDoubleWithinItsRoundings) {
  Bf16Case c = GetParam();
  c.tiny.expert.dropout = c.dropout;
  ParameterTable const table(c.tiny.model, c.tiny.expert, c.tiny.trained);
  SameWeights const weights(table);
  HostBatch const host = random_batch({9, 1, 70, 5}, c.tiny.model.vocabulary, 3);
  Pass const got = run(c, table, weights.half, host), want = run(c, table, weights.wide, host);
  // What follows a choice of expert that falls otherwise is another number: so many may lie within rounding.
  std::size_t other = 0;
  for (std::size_t i = 0; i < want.choices.size(); ++i) other += got.choices[i] != want.choices[i] ? 1 : 0;
  ASSERT_EQ(other, 0U) << "choose another seed: a token's logits tie within rounding";
  double const logits = distance(got.logits, want.logits) / norm(want.logits);
  double const gradient = distance(got.gradient, want.gradient) / norm(want.gradient);
  std::cout << c.name << " logits " << logits << " of " << band(c.tiny.model.layers, false) << " gradient "
            << gradient << " of " << band(c.tiny.model.layers, true) << " nll " << got.nll << " " << want.nll
            << std::endl;
  EXPECT_LE(logits, band(c.tiny.model.layers, false));
  EXPECT_GT(logits, 0x1p-12);  // it was computed in 16 bits
  EXPECT_LE(gradient, band(c.tiny.model.layers, true));
  // The loss is a mean over positions, whose errors average out.
  EXPECT_NEAR(got.nll, want.nll, band(c.tiny.model.layers, false) * want.nll);
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
