// SPDX-License-Identifier: Apache-2.0
// Owns the largest count that one MPI call is given.
#pragma once

#include "upit/core/index.hpp"

namespace upit {

/// Elements that one MPI call moves at most; a longer message is split. MPI counts are `int`, so the limit
/// starts at 2^30 and may lie in [1, 2^31). Lowered by tests alone; must be equal on all ranks.
void set_message_limit(Index elements);
Index message_limit();

}  // namespace upit
