// SPDX-License-Identifier: Apache-2.0
// Owns the checks of how speed is counted, and one bench of tiny shapes.
#include "upit/train/bench.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/tiny_bench.hpp"
#include "upit/train/bench_work.hpp"

namespace upit::test {
namespace {

ModelConfig design_shapes() {
  ModelConfig m;
  m.layers = 8;
  m.width = 512;
  m.heads = m.kv_heads = 8;
  m.head_width = 64;
  m.ffn = 1376;
  m.vocabulary = 32000;
  m.context = 512;
  return m;
}

TEST(Flops, EqualTheFiguresOfTheDesign) {
  ModelConfig const m = design_shapes();
  auto const mflop = [&](BenchKind kind) { return flops_per_token(m, kind, 512, 2, 8) * 1e-6; };
  EXPECT_NEAR(mflop(BenchKind::dense), 262.668288, 1e-9);
  EXPECT_NEAR(mflop(BenchKind::ffn_moe), 364.118016, 1e-9);
  EXPECT_EQ(mflop(BenchKind::dense_wide), mflop(BenchKind::ffn_moe));
  EXPECT_NEAR(mflop(BenchKind::lora), 181.481472, 1e-9);
  EXPECT_NEAR(mflop(BenchKind::lora_moe), 183.656448, 1e-9);
}

TEST(Flops, CountFewerKeyValueHeads) {
  ModelConfig m = design_shapes();
  double const all = flops_per_token(m, BenchKind::dense, 512, 2, 8);
  m.kv_heads = 2;
  // k and v shrink from 2 d d to 2 d d / 4 in each of 8 layers; 6 FLOPs a parameter.
  EXPECT_NEAR(all - flops_per_token(m, BenchKind::dense, 512, 2, 8), 6.0 * 8 * 1.5 * 512 * 512, 1e-3);
}

TEST(BenchCase, TakesBestAndMedian) {
  BenchCase c;
  c.flops = 1e9;
  c.seconds = {0.5, 0.1, 0.2, 0.4};
  c.ceiling = {10.0, 40.0, 10.0, 10.0};
  EXPECT_DOUBLE_EQ(c.best_seconds(), 0.1);
  EXPECT_DOUBLE_EQ(c.median_seconds(), 0.3);
  // Shares 0.2, 0.25, 0.5, 0.25.
  EXPECT_DOUBLE_EQ(c.median_share(), 0.25);
  BenchReport report;
  report.ceiling = {20.0, 50.0, 30.0};
  EXPECT_DOUBLE_EQ(report.best_share(c), 0.2);
  EXPECT_DOUBLE_EQ(report.median_ceiling(), 30.0);
}

TEST(RunBench, TimesEveryCaseOnRandomTokens) {
  Communicator const comm = Communicator::world();
  Console console(false);
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    BenchOptions options = tiny_bench();
    options.mix = mix;
    options.cases.push_back(BenchKind::dense_wide);
    BenchReport const report = run_bench(comm, options, console);
    ASSERT_EQ(report.cases.size(), 5u);
    EXPECT_EQ(report.ceiling.size(), 16u);  // before the first step and after each of 15
    EXPECT_GT(report.resident, 1 << 20);
    for (auto const& c : report.cases) {
      ASSERT_EQ(c.seconds.size(), 3u);
      EXPECT_GT(c.best_seconds(), 0.0);
      EXPECT_EQ(c.tokens, 48);
      EXPECT_DOUBLE_EQ(c.flops, 48.0 * flops_per_token(options.model, c.kind, 12, 2, 2));
      EXPECT_GT(c.median_share(), 0.0);
      // Random tokens and small random weights: the loss of a uniform guess, ln 50.
      EXPECT_NEAR(c.loss, std::log(50.0), 0.1) << name_of(c.kind);
      EXPECT_GT(c.bytes, 0);
      EXPECT_EQ(c.profile.steps, 0);
      EXPECT_EQ(c.profile.nodes.size(), 1u);
      EXPECT_EQ(c.exchange_bytes, 0.0);  // one rank holds all experts
    }
    EXPECT_GT(report.cases[0].bytes, report.cases[1].bytes);  // moments of all weights
  }
}

/// Of one step: FLOPs of all rows, and their seconds with those of the host.
struct Sums {
  double flops = 0.0, seconds = 0.0;
};

Sums sums_of(Profile const& p) {
  Sums sums = {0.0, p.host_seconds()};
  for (auto const& r : p.rows()) {
    sums.flops += r.flops / static_cast<double>(p.steps);
    sums.seconds += r.seconds;
  }
  return sums;
}

TEST(RunBench, TellsWhereTheTimeOfAStepGoes) {
  Communicator const comm = Communicator::world();
  Console console(false);
  BenchOptions options = tiny_bench();
  options.profile = true;
  options.ceiling_each = false;
  BenchReport const report = run_bench(comm, options, console);
  EXPECT_FALSE(Kokkos::Tools::profileLibraryLoaded());
  EXPECT_EQ(report.ceiling.size(), 2u);
  for (auto const& c : report.cases) {
    Profile const& p = c.profile;
    ASSERT_EQ(p.steps, 3) << name_of(c.kind);
    EXPECT_EQ(c.profile_tokens, 48);
    // The stopwatch runs a little longer than the listener listens.
    double const timed = c.seconds[0] + c.seconds[1] + c.seconds[2];
    EXPECT_LE(p.seconds(), timed);
    EXPECT_GT(p.seconds(), 0.5 * timed);
    Sums const sums = sums_of(p);
    EXPECT_NEAR(sums.seconds, p.seconds(), 1e-9 * p.seconds());
    bool regions = false, kernels = false, copies = false;
    for (auto const& n : p.nodes) {
      if (n.label == "upit::backward") regions = n.kind == Profile::Kind::region && n.calls == 3;
      if (n.label == "upit::adamw") kernels = n.kind == Profile::Kind::kernel;
      if (n.label == "Kokkos::deep_copy, fill") copies = n.kind == Profile::Kind::copy;
    }
    EXPECT_TRUE(regions && kernels && copies) << name_of(c.kind);
    // Products other than attention's: all that the formula counts (docs/performance.md), and the router's
    // three of N E C; LoRA's formula takes 18 r (d + f), the products that there are.
    double attention = 0.0;
    for (char const* label : {"upit::attention_forward", "upit::attention_backward"}) {
      attention += work_of(options, c, label, 2.0).flops;
    }
    EXPECT_DOUBLE_EQ(attention, 48.0 * 6 * 2 * 12 * 16);  // 6 L s d a token
    bool const routed = c.kind == BenchKind::ffn_moe;
    double const router = routed ? 3 * 2.0 * 2 * 48 * 4 * 16 : 0.0;
    if (c.kind == BenchKind::dense || routed) {
      EXPECT_NEAR(sums.flops, c.flops - attention + router, 1e-6 * c.flops) << name_of(c.kind);
    } else {
      EXPECT_GT(sums.flops, 0.0);
    }
  }
}

TEST(Work, CountsOperandsOnce) {
  BenchOptions const o = tiny_bench();
  BenchCase c;
  c.kind = BenchKind::ffn_moe;
  c.profile_tokens = 48;
  c.trained = 1000;
  Work const product = work_of(o, c, "upit::gemm 3x5x7 nt", 2.0);
  EXPECT_DOUBLE_EQ(product.flops, 2 * 2.0 * 3 * 5 * 7);
  EXPECT_DOUBLE_EQ(product.set_bytes, 4.0 * (3 * 7 + 7 * 5 + 3 * 5));
  EXPECT_DOUBLE_EQ(product.bytes, 2 * product.set_bytes);
  Work const grouped = work_of(o, c, "upit::grouped_gemm 4: 96x5x7 nt", 1.0);
  EXPECT_DOUBLE_EQ(grouped.flops, 2.0 * 96 * 5 * 7);
  EXPECT_DOUBLE_EQ(grouped.bytes, 4.0 * (96 * 7 + 4 * 7 * 5 + 96 * 5));
  Work const weight = work_of(o, c, "upit::grouped_gemm_transposed 4: 5x7x96 tn", 1.0);
  EXPECT_DOUBLE_EQ(weight.bytes, 4.0 * (96 * 5 + 96 * 7 + 4 * 5 * 7));
  // Both moments and the weight are read and written, the gradient is read; spans are pieces of one whole.
  EXPECT_DOUBLE_EQ(work_of(o, c, "upit::adamw", 3.0).bytes, 28.0 * 1000);
  // 24 columns of 96 slots: gate and up in, activation out.
  EXPECT_DOUBLE_EQ(work_of(o, c, "upit::swiglu_forward", 2.0).bytes, 2 * 4.0 * 96 * 24 * 3);
  EXPECT_EQ(work_of(o, c, "upit::no_such_kernel", 1.0).bytes, 0.0);
  EXPECT_EQ(work_of(o, c, "Kokkos::deep_copy", 1.0).bytes, 0.0);
}

TEST(RunBench, RefusesShapesThatDoNotFit) {
  Communicator const comm = Communicator::world();
  Console console(false);
  BenchOptions options = tiny_bench();
  options.active = 5;
  EXPECT_THROW(run_bench(comm, options, console), AgreedError);
  options = tiny_bench();
  options.sequences = 0;
  EXPECT_THROW(run_bench(comm, options, console), AgreedError);
}

TEST(GemmPeak, MeasuresEveryLibrary) {
  ProductShape const shapes[] = {{16, 8, 24}, {5, 40, 3}};
  GemmPeak const peak(shapes);
  ASSERT_GE(peak.libraries().size(), 1u);
  for (Index library = 0; library < std::ssize(peak.libraries()); ++library) {
    for (auto const& shape : shapes) {
      double const rate = peak.measure(library, shape, 2);
      EXPECT_GT(rate, 0.0);
      EXPECT_TRUE(std::isfinite(rate));
    }
  }
  EXPECT_THROW(peak.measure(0, {100, 100, 100}, 1), std::logic_error);
}

}  // namespace
}  // namespace upit::test
