// SPDX-License-Identifier: Apache-2.0
// Owns how a kernel is timed: best of many calls, beside a copy of the same bytes or the ceiling of products.
#pragma once

#include <benchmark/benchmark.h>

#include <functional>
#include <string>
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

/// Registers cases with Google Benchmark, and lives while they run.
class Suite {
 public:
  Suite() : peak_(kCeilingShapes) {}

  /// A kernel bound by memory: counters bytes (read and written once), set_bytes, best_seconds,
  /// gbytes_per_second, copy_gbytes_per_second (a copy with the same working set, before and after),
  /// copy_share.
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
