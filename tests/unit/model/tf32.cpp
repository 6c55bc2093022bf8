// SPDX-License-Identifier: Apache-2.0
// Owns the check of what asks for TF32: every product of a pass but those of routers. Kokkos calls tools
// through plain function pointers, hence the variables of this file.
#include "upit/linalg/tf32.hpp"

#include <gtest/gtest.h>

#include <set>

#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"
#include "upit/core/product_region.hpp"

namespace upit::test {
namespace {

namespace tools = Kokkos::Tools::Experimental;

struct Asked {
  ProductExtents shape;
  bool tf32;
};
std::vector<Asked> asked;

void note_region(char const* label) {
  if (auto const shape = read_product_label(label)) asked.push_back({*shape, tf32_allowed()});
}

/// Notes products, under the switch, while it lives.
class Listener {
 public:
  explicit Listener(bool tf32) : before_(tools::get_callbacks()) {
    asked.clear();
    allow_tf32(tf32);
    tools::set_push_region_callback(note_region);
  }
  ~Listener() {
    tools::set_callbacks(before_);
    allow_tf32(false);
  }
  Listener(Listener const&) = delete;
  Listener& operator=(Listener const&) = delete;

 private:
  tools::EventSet before_;
};

constexpr Index kExperts = 11;  // an extent that nothing but a router's product has

void pass(ExpertConfig const& expert, bool tf32) {
  ModelConfig const m = tiny_model(false, 2);
  ParameterTable const table(m, expert, {true, true, true});
  auto const weights = random_weights<float>(table, 3);
  HostBatch const host = random_batch({8, 5}, m.vocabulary, 4);
  Batch batch(host.tokens());
  batch.assign(host);
  Transformer<float> model(m, expert, table, host.tokens(), true);
  if (expert.router == RouterUse::auxiliary) model.set_auxiliary({0.1, true});
  View1<float> const gradient("gradient", table.gradient_extent());
  PassOptions options;
  options.train = true;
  Exec const exec;
  Listener const listener(tf32);
  model.forward(exec, weights, batch, options, gradient);
  std::vector<double> const balance(at(expert.router == RouterUse::gate ? m.layers * expert.count : 0), 0.01);
  model.backward(exec, weights, batch, options, balance, gradient);
  exec.fence();
}

/// Products of the router: logits, gradient of its rows, gradient of h.
bool of_router(ProductExtents const& s, Index experts) {
  return s.groups == 0 && (s.m == experts || s.n == experts || s.k == experts);
}

TEST(Tf32, ReachesEveryProductButThoseOfRouters) {
  auto const order = RouterOrder::topk_softmax;
  for (auto const& expert :
       {tiny_ffn_experts(kExperts, 2, order), tiny_experts(kExperts, 2, LoraMix::branch, order),
        tiny_experts(kExperts, 2, LoraMix::ffn, order)}) {
    pass(expert, true);
    Index routers = 0, others = 0;
    for (auto const& a : asked) {
      bool const router = of_router(a.shape, kExperts);
      EXPECT_NE(a.tf32, router) << a.shape.m << "x" << a.shape.n << "x" << a.shape.k;
      ++(router ? routers : others);
    }
    EXPECT_EQ(routers, 2 * 3);  // layers; forward, gradient of the rows, gradient of h
    EXPECT_GE(others, 2 * 12);
  }
}

TEST(Tf32, IsOffUnlessAskedFor) {
  pass(tiny_ffn_experts(kExperts, 2, RouterOrder::topk_softmax), false);
  EXPECT_FALSE(asked.empty());
  for (auto const& a : asked) EXPECT_FALSE(a.tf32);
  EXPECT_FALSE(tf32_allowed());
}

TEST(Tf32, IsWithheldWhileAnyScopeAsksForAllDigits) {
  allow_tf32(true);
  {
    FullFp32 const outer;
    { FullFp32 const inner; }
    EXPECT_FALSE(tf32_allowed());
  }
  EXPECT_TRUE(tf32_allowed());
  allow_tf32(false);
}

}  // namespace
}  // namespace upit::test
