// SPDX-License-Identifier: Apache-2.0
// Owns what is counted of routers: who gets how many tokens, and how undecided they are.
#pragma once

#include <vector>

#include "upit/core/index.hpp"

namespace upit {

/// Router use over some steps and all ranks.
struct RouterLoad {
  std::vector<double> assigned;       // (L, E) tokens sent to each expert
  std::vector<double> layer_entropy;  // (L) nats, mean over tokens, of the softmax over all experts
  double tokens = 0.0;
  double entropy = 0.0;  // mean over layers of that

  /// Adds the load of another step; entropies become means over all tokens.
  void add(RouterLoad const& other);
  /// Largest over mean load of the experts of layer l.
  double layer_imbalance(Index layer, Index experts) const;
  /// The same of the worst layer.
  double imbalance(Index layers, Index experts) const;
  /// Experts without a token: of one layer, of all.
  Index layer_dead(Index layer, Index experts) const;
  Index dead() const;
};

/// Largest over mean of the rows that ranks of a group of `group` neighbours receive, in the worst layer and
/// group: in every layer a group waits for its fullest rank. `received`: (ranks, L), all of the world.
double rank_imbalance(std::vector<double> const& received, Index layers, Index group);

}  // namespace upit
