// SPDX-License-Identifier: Apache-2.0
// Owns the arrangement of ranks: data x expert.
#pragma once

#include "upit/comm/communicator.hpp"

namespace upit {

/// Ranks with equal experts differ in their data and sum gradients over `data()`; ranks with equal data hold
/// different experts and meet in `expert()`. Movable like the communicators it owns.
class RankGrid {
 public:
  /// Collective. `expert` is the deck's parallel.expert. Throws `AgreedError` unless it is 1.
  RankGrid(Communicator const& world, Index expert);

  Communicator const& data() const { return data_; }
  Communicator const& expert() const { return expert_; }

 private:
  Communicator data_;
  Communicator expert_;
};

}  // namespace upit
