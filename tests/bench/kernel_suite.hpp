// SPDX-License-Identifier: Apache-2.0
// Owns how a kernel is timed: best of many calls, beside a copy of the same bytes or the ceiling of products.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/kernels/traffic.hpp"
#include "upit/linalg/peak.hpp"

namespace upit::bench {

using kernels::KernelShape;

/// One call on buffers that it owns.
using Call = std::function<void(Exec const&)>;
/// Makes the buffers.
using Prepare = std::function<Call()>;

/// Shapes that every kernel is timed at: those of the flagship decks' step, and larger ones.
struct Size {
  std::string name;
  KernelShape shape;
  Index chunk = 0;  // rows of a chunk of logits
};
std::vector<Size> sizes();

/// What a kernel cannot be faster than, seconds: its bytes at the bandwidth of a copy with the same working
/// set, before and after; its exponentials, random counters and products at rates measured where all operands
/// stay in the first-level cache; its launches without a body. A kernel is bound by the largest of the three,
/// and bound by memory, which the share of copy bandwidth is asked of, only if that is the first.
struct Floors {
  double traffic = 0.0, arithmetic = 0.0, launch = 0.0;

  double highest() const { return std::max({traffic, arithmetic, launch}); }
  std::string_view name() const {
    if (highest() == traffic) return "memory";
    return highest() == arithmetic ? "arithmetic" : "launch";
  }
};

/// Measured once, by all threads together.
struct Rates {
  double exponentials = 0.0, counters = 0.0;  // a second
  double launch = 0.0;                        // seconds of one without a body
};
Rates measured_rates();

/// Registers cases with Google Benchmark, and lives while they run.
class Suite {
 public:
  Suite() : peak_(kCeilingShapes), rates_(measured_rates()) {}

  /// A kernel of the table in kernels/traffic: counters bytes (read and written once), set_bytes,
  /// best_seconds, gbytes_per_second, copy_gbytes_per_second, copy_share; traffic_seconds,
  /// arithmetic_seconds, launch_seconds
  /// (`Floors`), floor_share: the highest of them over best_seconds. The label names that floor.
  void memory(std::string const& kernel, Size const& size, KernelShape const& shape, Prepare prepare);
  /// Work bound by products: counters flops, best_seconds, gflops, ceiling_gflops (sampled before and after),
  /// ceiling_share.
  void products(std::string const& name, double flops, Prepare prepare);
  /// Copies whose source and target together take `set` bytes: counter copy_gbytes_per_second.
  void copy(double set);

 private:
  Call const& take_turn(std::string const& name, Prepare const& prepare);

  // Google Benchmark calls a case several times; its buffers stay until the next one comes.
  std::string turn_;
  Call call_;
  GemmPeak peak_;
  Rates rates_;
  double product_rate_ = 0.0;  // FLOP/s, sampled when a kernel first needs it
};

/// Uniform in (-1, 1).
View1<float> flat_values(Index n, std::uint64_t seed = 1);
View2<float> values(Index rows, Index columns, std::uint64_t seed = 1);
/// Uniform in [0, below).
View1<int> ids(Index n, Index below, std::uint64_t seed = 1);

inline Index whole(double extent) { return static_cast<Index>(extent); }

/// Each registers its cases.
void add_dense_kernels(Suite& suite, Size const& size);
void add_expert_kernels(Suite& suite, Size const& size);
void add_attention(Suite& suite);
void add_products(Suite& suite, Size const& size);

}  // namespace upit::bench
