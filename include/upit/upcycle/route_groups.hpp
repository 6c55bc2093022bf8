// SPDX-License-Identifier: Apache-2.0
// Owns how stage 3 spreads experts over groups of ranks, and how an error of one group reaches all ranks.
#pragma once

#include <functional>
#include <vector>

#include "upit/comm/communicator.hpp"

namespace upit::upcycle {

/// min(n, ranks) groups of neighbouring ranks; expert e belongs to group e mod groups. Groups work side by
/// side, in rounds of one expert each: the world meets after every round. What belongs to whom depends on
/// (n, ranks) only, so a resumed run repeats what an uninterrupted one does.
class ExpertGroups {
 public:
  /// Collective. `world` must outlive this object.
  ExpertGroups(Communicator const& world, Index experts);

  Communicator const& world() const { return *world_; }
  /// The ranks of this rank's group.
  Communicator const& group() const { return group_; }
  Index experts() const { return experts_; }
  Index groups() const { return groups_; }
  Index rounds() const { return (experts_ + groups_ - 1) / groups_; }
  /// This group's expert in a round; -1: none.
  Index expert(Index round) const;
  /// All experts of a round, over all groups.
  std::vector<Index> of_round(Index round) const;

  /// Runs `work`, which may communicate within the group. What a whole group throws (`AgreedError`), all
  /// ranks throw; any other exception passes through on its rank. Collective over the world.
  void together(std::function<void()> const& work) const;

 private:
  Communicator const* world_;
  Index experts_, groups_, mine_;
  Communicator group_;
};

}  // namespace upit::upcycle
