// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/route_groups.hpp"

#include <algorithm>

namespace upit::upcycle {

ExpertGroups::ExpertGroups(Communicator const& world, Index experts)
    : world_(&world),
      experts_(experts),
      groups_(std::max<Index>(1, std::min<Index>(experts, world.size()))),
      mine_(world.rank() * groups_ / world.size()),
      group_(world.split(static_cast<int>(mine_))) {}

Index ExpertGroups::expert(Index round) const {
  Index const e = round * groups_ + mine_;
  return e < experts_ ? e : -1;
}

std::vector<Index> ExpertGroups::of_round(Index round) const {
  std::vector<Index> list;
  for (Index e = round * groups_; e < std::min(experts_, (round + 1) * groups_); ++e) list.push_back(e);
  return list;
}

void ExpertGroups::together(std::function<void()> const& work) const {
  std::string error;
  Ending ending = Ending::orderly;
  try {
    work();
  } catch (AgreedError const& e) {
    error = e.what();
    ending = e.ending();
    if (error.empty()) error = "unnamed error";
  }
  world_->agree(error, ending);
}

}  // namespace upit::upcycle
