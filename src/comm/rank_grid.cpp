// SPDX-License-Identifier: Apache-2.0
#include "upit/comm/rank_grid.hpp"

#include <fmt/core.h>

namespace upit {
namespace {

/// Every rank reads the same deck, so every rank throws.
int checked_expert(Index expert) {
  if (expert != 1) {
    throw AgreedError(fmt::format(
        "parallel.expert = {}: only 1 is possible, since LoRA experts stay on every rank", expert));
  }
  return 1;
}

}  // namespace

RankGrid::RankGrid(Communicator const& world, Index expert)
    : data_(world.split(world.rank() % checked_expert(expert))),
      expert_(world.split(world.rank() / checked_expert(expert))) {}

}  // namespace upit
