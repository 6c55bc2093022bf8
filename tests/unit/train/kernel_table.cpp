// SPDX-License-Identifier: Apache-2.0
// Owns the check that every kernel of a training step stands in the table of kernels/traffic.
#include <gtest/gtest.h>

#include "support/tiny_bench.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/train/bench_work.hpp"

namespace upit::test {
namespace {

BenchOptions profiled_step(LoraMix mix, Precision precision) {
  BenchOptions o = tiny_bench();
  o.repeats = 1;
  o.mix = mix;
  o.precision = precision;
  o.profile = true;
  o.ceiling_each = false;
  return o;
}

TEST(KernelTable, KnowsWhatEveryKindOfStepLaunches) {
  Communicator const comm = Communicator::world();
  Console console(false);
  for (Precision const precision : {Precision::fp32, Precision::bf16}) {
    if (precision == Precision::bf16 && bf16_products() == Bf16Products::none) continue;
    for (LoraMix const mix : {LoraMix::branch, LoraMix::ffn}) {
      BenchOptions const options = profiled_step(mix, precision);
      BenchReport const report = run_bench(comm, options, console);
      for (auto const& c : report.cases) {
        int kernels = 0;
        for (auto const& row : c.profile.rows()) {
          if (row.kind != Profile::Kind::kernel || !row.label.starts_with("upit::")) continue;
          ++kernels;
          EXPECT_GT(work_of(options, c, row.label, static_cast<double>(row.calls)).bytes, 0.0)
              << row.label << " of " << name_of(c.kind);
        }
        EXPECT_GT(kernels, 10) << name_of(c.kind);
      }
    }
  }
}

}  // namespace
}  // namespace upit::test
