// SPDX-License-Identifier: Apache-2.0
// Owns which samples stand in which training step, micro-step, sequence and rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "upit/text/sample.hpp"

namespace upit {

/// Samples laid end to end that count as one sequence: one, or several when packed. They do not see each
/// other.
struct Sequence {
  std::vector<Index> samples;  // indices into the store
};

/// One forward and backward pass of all ranks together.
struct MicroStep {
  std::vector<std::vector<Sequence>> per_rank;  // a rank may have none
  Index targets = 0;                            // tokens with loss, over all ranks
  Index tokens = 0;                             // input tokens, over all ranks
};

/// Order of `samples` samples in an epoch: a permutation from (seed, epoch) alone.
std::vector<Index> epoch_order(Index samples, std::uint64_t seed, Index epoch);

/// Puts samples into sequences of at most `context` input tokens by first fit in the given order. Samples are
/// neither split nor lost; one above `context` is a `std::logic_error`.
std::vector<Sequence> pack_first_fit(TokenStore const& store, std::span<Index const> samples, Index context);

/// The training batches of a store. The running order is epoch after epoch of `epoch_order`; a step takes the
/// next `batch` samples of it (crossing epochs), packs them if asked to, and cuts the sequences, in order,
/// into the fewest micro-steps of at most `micro_batch` sequences, as even as can be. A micro-step's
/// sequences are then dealt to ranks, longest first, each to the rank with the fewest tokens among those
/// holding fewer than ceil(sequences / ranks). What a micro-step holds depends on (store, seed, epoch, deck)
/// only.
///
/// The store must outlive the plan. `step` caches the order of two epochs: not for concurrent use.
class BatchPlan {
 public:
  BatchPlan(TokenStore const& store, Index context, bool packing, Index batch, Index micro_batch,
            std::uint64_t seed);
  /// The same over some of the store's samples, given by index (may be empty: then no step may be asked for).
  BatchPlan(TokenStore const& store, std::vector<Index> subset, Index context, bool packing, Index batch,
            Index micro_batch, std::uint64_t seed);

  /// Samples of one epoch.
  Index samples() const { return static_cast<Index>(subset_.size()); }
  /// Steps that `epochs` epochs take: at least one if there are samples and epochs > 0, the last step rounded
  /// up.
  Index steps(double epochs) const;
  /// Samples consumed by `steps` steps: what to add to first_sample when another stage goes on.
  Index samples_seen(Index steps) const { return steps * batch_; }

  /// The micro-steps of step `step` >= 0 of a stage whose first sample is position `first_sample` of the
  /// running order (the count of samples that earlier stages consumed).
  std::vector<MicroStep> step(Index step, Index first_sample, int ranks, bool loss_on_all) const;
  /// Store indices of the samples of that step, in running order.
  std::vector<Index> step_samples(Index step, Index first_sample) const;

  /// Upper bound over all steps, for buffers that are sized once: input tokens of one rank in one micro-step.
  Index max_tokens_per_rank(int ranks) const;

 private:
  std::vector<Index> const& order(Index epoch) const;

  TokenStore const* store_;
  std::vector<Index> subset_;
  Index context_, batch_, micro_batch_;
  bool packing_;
  std::uint64_t seed_;
  Index longest_ = 0;
  struct CachedOrder {
    Index epoch = -1;
    std::vector<Index> order;
  };
  mutable CachedOrder cache_[2];
};

/// Evaluation: the given samples in the given order, one per sequence, in fixed blocks of `micro_batch` that
/// do not depend on `ranks`, each dealt to ranks as in training.
std::vector<MicroStep> evaluation_steps(TokenStore const& store, std::span<Index const> samples,
                                        Index micro_batch, int ranks, bool loss_on_all);
/// The same for the whole store.
std::vector<MicroStep> evaluation_steps(TokenStore const& store, Index micro_batch, int ranks,
                                        bool loss_on_all);

}  // namespace upit
