// SPDX-License-Identifier: Apache-2.0
// Owns when checkpoints are saved in stage 1 and which of them become experts.
#pragma once

#include <string>
#include <vector>

#include "upit/core/index.hpp"

namespace upit::upcycle {

/// The steps after which the 2m checkpoints are saved: round(j T / 2m), j = 1..2m, distinct, the last one T.
/// Throws `Error` if T < 2m.
std::vector<Index> checkpoint_steps(Index steps, Index m);

/// Which j become the m experts: "back_half" j = m+1..2m, "front_half" j = 1..m, "uniform" the even j. With
/// `include_base` the first is 0, the base itself.
std::vector<Index> selected_checkpoints(std::string const& select, Index m, bool include_base);

}  // namespace upit::upcycle
