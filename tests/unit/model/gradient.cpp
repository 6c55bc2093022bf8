// SPDX-License-Identifier: Apache-2.0
// Owns the check of the whole model's backward against central differences, in double.
#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

struct GradientCase {
  std::string name;
  TinyCase tiny;
  double dropout = 0.0;
  double balance = 0.0;
  double auxiliary = 0.0;
};

class WholeModel : public ::testing::TestWithParam<GradientCase> {};

/// The loss of a training step as one number: lm + balance, f_e held at `share` (its gradient is zero), or
/// lm + auxiliary.
double loss_of(Transformer<double>& model, Weights<double> const& w, Batch const& batch,
               PassOptions const& options, GradientCase const& c, std::vector<double> const& coefficient) {
  Exec const exec;
  View1<double> const nothing;
  PassOptions evaluate = options;
  View1<double> const gradient("gradient", 1 << 16);
  double loss = options.loss_scale * model.forward(exec, w, batch, evaluate, gradient);
  auto const& counts = model.router_counts();
  for (std::size_t i = 0; i < coefficient.size(); ++i) loss += coefficient[i] * counts.probability[i];
  if (c.auxiliary > 0.0) loss += c.auxiliary * model.auxiliary_loss();
  return loss;
}

TEST_P(WholeModel, BackwardMatchesCentralDifferences) {
  GradientCase c = GetParam();
  c.tiny.expert.dropout = c.dropout;
  ParameterTable const table(c.tiny.model, c.tiny.expert, c.tiny.trained);
  ASSERT_LE(table.gradient_extent(), 1 << 16);
  auto const weights = random_weights<double>(table, 7);
  HostBatch const host = random_batch({9, 1, 70, 5}, c.tiny.model.vocabulary, 3);
  Batch batch(host.tokens());
  batch.assign(host);
  Transformer<double> model(c.tiny.model, c.tiny.expert, table, host.tokens(), true);
  if (c.auxiliary > 0.0) model.set_auxiliary({c.auxiliary, true});
  PassOptions options;
  options.train = true;
  options.seed = 5;
  options.step = 3;
  options.loss_scale = 1.0 / static_cast<double>(host.targets());
  Exec const exec;
  View1<double> const gradient("gradient", table.gradient_extent());
  model.forward(exec, weights, batch, options, gradient);
  std::vector<double> coefficient;
  if (c.balance > 0.0) {
    auto const& counts = model.router_counts();
    auto const e = static_cast<double>(c.tiny.expert.count), k = static_cast<double>(c.tiny.expert.active);
    for (double const assigned : counts.assigned) {
      double const share = assigned / (counts.tokens * k);
      coefficient.push_back(c.balance * e * share /
                            (static_cast<double>(c.tiny.model.layers) * counts.tokens));
    }
  }
  model.backward(exec, weights, batch, options, coefficient, gradient);
  exec.fence();
  auto const analytic_host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), gradient);
  std::vector<double> const analytic(analytic_host.data(), analytic_host.data() + analytic_host.extent(0));

  // Central differences err by h^2 f'''/6 + eps f / h: about 1e-9 at h = 1e-5 for losses near 3.
  double const h = 1e-5;
  Index checked = 0;
  for (auto const& t : table.tensors()) {
    if (t.gradient_offset < 0) continue;
    double* const data =
        t.group == Group::router ? weights.router.data() + t.offset : weights.tensor(t).data();
    RandomKey const key = random_key(1, t.name);
    double largest = 0.0;
    for (int probe = 0; probe < 5; ++probe) {
      auto const i = static_cast<Index>(
          random_below(key, static_cast<std::uint64_t>(probe), static_cast<std::uint64_t>(t.size())));
      double const saved = get(data + i);
      put(data + i, saved + h);
      double const up = loss_of(model, weights, batch, options, c, coefficient);
      put(data + i, saved - h);
      double const down = loss_of(model, weights, batch, options, c, coefficient);
      put(data + i, saved);
      double const expected = (up - down) / (2.0 * h);
      double const found = analytic[static_cast<std::size_t>(t.gradient_offset + i)];
      EXPECT_NEAR(found, expected, 2e-9 + 1e-6 * std::abs(expected)) << t.name << " element " << i;
      largest = std::max(largest, std::abs(found));
      ++checked;
    }
    EXPECT_GT(largest, 1e-7) << t.name << " has no gradient";
  }
  EXPECT_GT(checked, 0);
}

std::vector<GradientCase> cases() {
  auto const topk = RouterOrder::topk_softmax, first = RouterOrder::softmax_topk;
  Trained const all{true, true, true}, experts{false, true, true}, lora{false, true, false};
  std::vector<GradientCase> list;
  list.push_back({"dense_tied", {tiny_model(true, 2), {}, {true, false, false}}});
  list.push_back({"dense_untied", {tiny_model(false, 4), {}, {true, false, false}}});
  list.push_back({"lora", {tiny_model(true, 2), tiny_experts(1, 1, LoraMix::branch, topk), lora}, 0.2});
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    std::string const name = mix == LoraMix::branch ? "branch" : "ffn";
    list.push_back({name + "_topk", {tiny_model(true, 2), tiny_experts(5, 2, mix, topk), experts}, 0.0, 0.3});
    list.push_back(
        {name + "_first", {tiny_model(false, 2), tiny_experts(5, 3, mix, first), experts}, 0.2, 0.3});
    list.push_back({name + "_all", {tiny_model(true, 4), tiny_experts(4, 4, mix, topk), all}, 0.3, 0.1});
  }
  list.push_back({"ffn_experts_topk", {tiny_model(true, 2), tiny_ffn_experts(5, 2, topk), all}, 0.0, 0.3});
  list.push_back({"ffn_experts_first", {tiny_model(false, 2), tiny_ffn_experts(4, 3, first), all}, 0.0, 0.3});
  list.push_back({"ffn_experts_every", {tiny_model(true, 4), tiny_ffn_experts(3, 3, topk), experts}});
  list.push_back({"ffn_dense",
                  {tiny_model(true, 2), tiny_ffn_experts(1, 1, topk, RouterUse::none), {true, true, false}}});
  list.push_back({"ffn_auxiliary",
                  {tiny_model(true, 2), tiny_ffn_experts(1, 1, topk, RouterUse::auxiliary), experts},
                  0.0,
                  0.0,
                  0.02});
  ExpertConfig auxiliary = tiny_experts(1, 1, LoraMix::branch, topk);
  auxiliary.router = RouterUse::auxiliary;
  list.push_back({"auxiliary", {tiny_model(true, 2), auxiliary, experts}, 0.1, 0.0, 0.02});
  return list;
}

INSTANTIATE_TEST_SUITE_P(Cases, WholeModel, ::testing::ValuesIn(cases()),
                         [](auto const& info) { return info.param.name; });

}  // namespace
}  // namespace upit::test
