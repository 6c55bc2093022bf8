// SPDX-License-Identifier: Apache-2.0
#include "upit/comm/rank_grid.hpp"

#include <fmt/core.h>

namespace upit {
namespace {

int checked_group(Communicator const& world, Index expert, std::string_view what) {
  check_rank_grid(world.size(), expert, what);
  return static_cast<int>(expert);
}

}  // namespace

void check_rank_grid(Index ranks, Index expert, std::string_view what) {
  if (expert >= 1 && ranks % expert == 0) return;
  std::string allowed;
  for (Index divisor = 1; divisor <= ranks; ++divisor) {
    if (ranks % divisor == 0) allowed += fmt::format("{}{}", divisor == 1 ? "" : ", ", divisor);
  }
  throw AgreedError(fmt::format("{}: found {}, allowed with {} rank{}: {} (it divides the number of ranks)",
                                what, expert, ranks, ranks == 1 ? "" : "s", allowed));
}

std::vector<Index> expert_ranges(Index experts, Index ranks) {
  expect(experts >= 0 && ranks >= 1, "experts are shared out to one rank at least");
  std::vector<Index> first;
  for (Index q = 0; q <= ranks; ++q) first.push_back(experts * q / ranks);
  return first;
}

RankGrid::RankGrid(Communicator const& world, Index expert, std::string_view what)
    : expert_(world.split(world.rank() / checked_group(world, expert, what))),
      replicas_(world.split(world.rank() % checked_group(world, expert, what))) {}

}  // namespace upit
