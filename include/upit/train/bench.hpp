// SPDX-License-Identifier: Apache-2.0
// Owns how speed is counted and timed: FLOPs of a training step, the ceiling beside it, the share.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/core/console.hpp"
#include "upit/core/profile.hpp"
#include "upit/linalg/peak.hpp"
#include "upit/model/model_weights.hpp"

namespace upit {

/// What is trained: everything (dense; dense_wide with an FFN of width K f, so with the FLOPs of ffn_moe;
/// ffn_moe), LoRA on a frozen model, or LoRA experts and routers.
enum class BenchKind { dense, dense_wide, lora, ffn_moe, lora_moe };

std::string_view name_of(BenchKind kind);

/// FLOPs that a training step counts for one token; d width, f FFN width, s sequence, r rank, others as in
/// docs/notation.md:
///   P = L (2 d d + 2 d d G/H + m 3 d f) + V d        m = K for FFN experts and dense_wide, else 1
///   F = c P + 6 L s d + 18 L n r (d + f)             c = 6 all trained, 4 frozen; n = 0, LoRA 1, LoRA-MoE K
/// `sequence` is s, `active` K, `rank` r.
double flops_per_token(ModelConfig const& model, BenchKind kind, Index sequence, Index active, Index rank);

struct BenchOptions {
  ModelConfig model;    // model.context is the sequence length
  Index sequences = 4;  // of one step, over all ranks; at least one a rank
  Index experts = 8, active = 2, rank = 8;
  LoraMix mix = LoraMix::branch;
  std::vector<BenchKind> cases = {BenchKind::dense, BenchKind::lora, BenchKind::ffn_moe, BenchKind::lora_moe};
  Index repeats = 5;
  Index group = 1;        // ranks that share one set of FFN experts
  double capacity = 2.0;  // as parallel.capacity
  Index chunks = 1;       // as parallel.chunks
  Precision precision = Precision::fp32;
  bool tf32 = false;     // as train.tf32; of the ceiling's products too
  bool profile = false;  // listen to Kokkos in the timed steps
  // Sample the ceiling around each step; else only before the first and after the last.
  bool ceiling_each = true;
  std::uint64_t seed = 1;
  std::span<ProductShape const> shapes = kCeilingShapes;
};

/// Times of one case, a value a repetition; the slowest rank counts.
struct BenchCase {
  BenchKind kind = BenchKind::dense;
  double flops = 0.0;           // of a step, over all ranks
  Index tokens = 0;             // of a step, over all ranks
  std::vector<double> seconds;  // of a step
  std::vector<double> ceiling;  // GFLOP/s, the better of the samples before and after that step
  double loss = 0.0;            // of the last step
  Index bytes = 0;              // weights, gradients, moments and workspace of the fullest rank
  // Token exchange, a step: time that a rank waits for it, the mean over ranks; bytes that leave ranks, the
  // sum.
  std::vector<double> exchange_seconds;
  double exchange_bytes = 0.0;
  Profile profile;           // of rank 0 in all timed steps; no steps unless asked for
  Index profile_tokens = 0;  // of a step on rank 0
  Index trained = 0;         // parameters that rank 0 trains

  double best_seconds() const;
  /// Median over repetitions of the exchange's share in the step's time.
  double exchange_share() const;
  double median_seconds() const;
  double gflops(double seconds) const { return flops / seconds * 1e-9; }
  /// Median over repetitions of model GFLOP/s over the ceiling sampled around that step.
  double median_share() const;
};

struct BenchReport {
  std::vector<BenchCase> cases;
  std::vector<double> ceiling;  // every sample: the best library and shape, summed over ranks, GFLOP/s
  Index resident = 0;           // largest resident memory so far of the fullest rank, bytes
  double best_ceiling() const;
  double median_ceiling() const;
  /// The fastest step over the highest ceiling: both at their least disturbed.
  double best_share(BenchCase const& c) const { return c.gflops(c.best_seconds()) / best_ceiling(); }
};

/// Times training steps (zero gradient, forward, backward, clipping, AdamW; no dropout) on random weights and
/// tokens: one unpacked sample a sequence, every position a loss token. After a warm-up the cases take turns,
/// so that a disturbance meets all; the ceiling is sampled before and after every step, on all ranks at once.
/// With `options.profile` every timed step is listened to, which costs it about a microsecond a kernel.
/// Collective. Throws `AgreedError` for shapes that do not fit together.
BenchReport run_bench(Communicator const& comm, BenchOptions const& options, Console& console);

}  // namespace upit
