// SPDX-License-Identifier: Apache-2.0
// Owns the log-perplexity of seed samples under an expert model, the same whatever ranks share the work.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/model/parameters.hpp"
#include "upit/text/sample.hpp"
#include "upit/train/evaluation.hpp"

namespace upit::upcycle {

/// Scores samples of a store under one model after another. The samples, in order, are cut into blocks that
/// depend on context and samples only; a block is one forward pass of one rank, so that products of matrices
/// have the same shapes, and the numbers that decide about buckets the same bits, on any number of ranks.
class PerplexityScorer {
 public:
  /// `expert` is the shape of one expert (E = 1, no router), `table` that of base and expert. Collective
  /// over `comm`; `table` and `store` must outlive this object.
  PerplexityScorer(Communicator const& comm, ModelConfig const& model, ExpertConfig const& expert,
                   ParameterTable const& table, TokenStore const& store, std::vector<Index> samples);

  /// Log-perplexity of the samples, (S) in nats: mean negative log likelihood of the response tokens. Blocks
  /// b = part, part + parts, ... are computed, other places hold 0: the sum over parts is the whole. No
  /// communication but what `stop` does: it is told how many blocks are done, after each, equally often in
  /// every part. When it is true and blocks are left in any part, nothing is returned.
  std::optional<std::vector<double>> score(ModelWeights<float> const& weights, Index part, Index parts,
                                           std::function<bool(Index)> const& stop = {});

  /// Blocks that `part` of `parts` computes.
  Index blocks(Index part, Index parts) const;

 private:
  Communicator alone_;  // this rank
  TokenStore const* store_;
  std::vector<Index> samples_;
  Index block_;  // samples
  Evaluator<float> evaluator_;
};

}  // namespace upit::upcycle
