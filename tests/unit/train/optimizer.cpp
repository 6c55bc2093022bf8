// SPDX-License-Identifier: Apache-2.0
// Owns tests of the optimizer over a table's trained spans, against AdamW element by element.
#include "upit/train/optimizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/plain_adamw.hpp"
#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

std::vector<Trained> const& sets() {
  static std::vector<Trained> const all = {{true, false, false},
                                           {false, true, false},
                                           {false, false, true},
                                           {false, true, true},
                                           {true, true, true}};
  return all;
}

/// Gradient of step `step`, padding zero as backward leaves it.
void fill_gradient(ParameterTable const& table, Index step, double size, View1<double> const& gradient) {
  for (auto const& t : table.tensors()) {
    if (t.gradient_offset < 0) continue;
    RandomKey const key = random_key(3, t.name, step);
    std::vector<double> values;
    for (Index i = 0; i < t.size(); ++i) {
      values.push_back(size * random_normal(key, static_cast<std::uint64_t>(i)));
    }
    put_all(gradient.data() + t.gradient_offset, values);
  }
}

template <class R>
double norm_of(Optimizer<R> const& optimizer, View1<R> const& gradient) {
  auto const [backbone, expert, router] = optimizer.squared_norms(Exec(), gradient);
  return std::sqrt(backbone + expert + router);
}

TEST(Optimizer, IsAdamwWithClippingOnTrainedTensorsOnly) {
  ModelConfig const m = tiny_model(false, 2);
  ExpertConfig const e = tiny_experts(5, 2, LoraMix::branch, RouterOrder::topk_softmax);
  Exec const exec;
  for (Trained const trained : sets()) {
    ParameterTable const table(m, e, trained);
    auto const w = random_weights<double>(table, 1), expected = random_weights<double>(table, 1);
    Optimizer<double> const optimizer(table);
    View1<double> const gradient("gradient", table.gradient_extent());
    std::vector<PlainAdamw> element(static_cast<std::size_t>(table.gradient_extent()));
    for (Index step = 1; step <= 4; ++step) {
      // Norms far above the clip, then far below.
      fill_gradient(table, step, step % 2 == 1 ? 1.0 : 1e-5, gradient);
      double square = 0.0;
      for (double const g : flat(gradient)) square += g * g;
      double const norm = norm_of(optimizer, gradient), clip = 0.5;
      EXPECT_NEAR(norm, std::sqrt(square), 1e-12 * norm);
      kernels::AdamwStep settings;
      settings.learning_rate = 0.01;
      settings.weight_decay = 0.1;
      settings.step = step;
      settings.gradient_scale = 1e9;  // as promised, ignored
      optimizer.step(exec, w, gradient, norm, clip, settings);
      exec.fence();
      auto const g = flat(gradient);
      for (auto const& t : table.tensors()) {
        if (t.gradient_offset < 0) continue;
        std::vector<double> values = flat(expected.tensor(t));
        for (Index i = 0; i < t.size(); ++i) {
          auto const e = at(t.gradient_offset + i);
          values[at(i)] = element[e].step(values[at(i)], g[e] * std::min(1.0, clip / norm), settings);
        }
        put_all(expected.tensor(t).data(), values);
      }
      auto const found = flat(w), want = flat(expected);
      ASSERT_EQ(found.size(), want.size());
      // A step moves a weight by about the rate; some ten roundings of values near 1.
      for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], want[i], 1e-14) << i;
    }
  }
}

TEST(Optimizer, WithoutClipTheGradientStays) {
  ModelConfig const m = tiny_model(true, 2);
  ParameterTable const table(m, {}, {true, false, false});
  Exec const exec;
  auto const clipped = random_weights<double>(table, 1), whole = random_weights<double>(table, 1);
  Optimizer<double> const a(table), b(table);
  View1<double> const gradient("gradient", table.gradient_extent());
  fill_gradient(table, 1, 1.0, gradient);
  double const norm = norm_of(a, gradient);
  ASSERT_GT(norm, 1.0);
  a.step(exec, clipped, gradient, norm, 1.0, {.learning_rate = 0.01});
  b.step(exec, whole, gradient, norm, 0.0, {.learning_rate = 0.01});
  exec.fence();
  Index const first = table.find("embedding").gradient_offset;
  double const g = get(gradient.data() + first);
  EXPECT_DOUBLE_EQ(get(b.first_moment().data() + first), 0.1 * g);
  EXPECT_NEAR(get(a.first_moment().data() + first), 0.1 * g / norm, 1e-15);
}

TEST(Optimizer, ResetForgets) {
  ParameterTable const table(tiny_model(true, 2), {}, {true, false, false});
  Exec const exec;
  auto const w = random_weights<double>(table, 1);
  Optimizer<double> const optimizer(table);
  EXPECT_EQ(optimizer.first_moment().extent_int(0), table.gradient_extent());
  View1<double> const gradient("gradient", table.gradient_extent());
  fill_gradient(table, 1, 1.0, gradient);
  optimizer.step(exec, w, gradient, 1.0, 1.0, {.learning_rate = 0.01});
  exec.fence();
  auto const some = [](std::vector<double> const& v) {
    return std::any_of(v.begin(), v.end(), [](double x) { return x != 0.0; });
  };
  EXPECT_TRUE(some(flat(optimizer.first_moment())) && some(flat(optimizer.second_moment())));
  optimizer.reset(exec);
  exec.fence();
  EXPECT_FALSE(some(flat(optimizer.first_moment())) || some(flat(optimizer.second_moment())));
}

TEST(Optimizer, NothingTrainedIsNoWork) {
  ParameterTable const table(tiny_model(true, 2), {});
  Optimizer<float> const optimizer(table);
  Exec const exec;
  Weights<float> const w = random_weights<float>(table, 1);
  auto const before = flat(w);
  View1<float> const gradient("gradient", 0);
  EXPECT_EQ(norm_of(optimizer, gradient), 0.0);
  optimizer.step(exec, w, gradient, 0.0, 1.0, {.learning_rate = 0.01});
  exec.fence();
  EXPECT_EQ(flat(w), before);
}

}  // namespace
}  // namespace upit::test
