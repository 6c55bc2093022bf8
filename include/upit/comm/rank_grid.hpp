// SPDX-License-Identifier: Apache-2.0
// Owns the arrangement of ranks: groups that share out the experts, and the replicas of each share.
#pragma once

#include <string_view>
#include <vector>

#include "upit/comm/communicator.hpp"

namespace upit {

/// Throws `AgreedError` unless `expert`, which the user knows as `what`, divides `ranks`. No communication:
/// every rank reads the same deck, so every rank throws.
void check_rank_grid(Index ranks, Index expert, std::string_view what = "parallel.expert");

/// First expert of each of `ranks` ranks, and the number of experts at the end: rank q owns the experts
/// [first[q], first[q+1]), first[q] = experts * q / ranks rounded down. Ranges differ by one at most; with
/// more ranks than experts some are empty.
std::vector<Index> expert_ranges(Index experts, Index ranks);

/// The world cut into groups of P neighbouring ranks. Every group holds all experts, rank q of it the range q
/// of `expert_ranges`; the batch is split over the whole world. Movable like the communicators it owns.
class RankGrid {
 public:
  /// Collective. `expert` is P, the deck's parallel.expert. Throws as `check_rank_grid` does.
  RankGrid(Communicator const& world, Index expert, std::string_view what = "parallel.expert");

  /// The group, ranks of equal rank / P: they hold different experts and exchange tokens.
  Communicator const& expert() const { return expert_; }
  /// Ranks of equal rank % P: they hold the same experts and sum those experts' gradients.
  Communicator const& replicas() const { return replicas_; }

 private:
  Communicator expert_;
  Communicator replicas_;
};

}  // namespace upit
