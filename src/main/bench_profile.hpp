// SPDX-License-Identifier: Apache-2.0
// Owns the interface to what `upit bench --profile` tells.
#pragma once

#include <nlohmann/json.hpp>

#include "upit/core/console.hpp"
#include "upit/train/bench.hpp"

namespace upit {

/// {"steps", "seconds", "host_seconds", "rows": [...], "tree": [...]}; seconds, calls, FLOPs and bytes are
/// those of one step, a mean over the steps. A row's seconds are its own, so rows and host_seconds sum to
/// seconds. Work that is not known is left out: see train/bench_work. The tree's seconds include what lies
/// within, its own_seconds do not.
nlohmann::json profile_json(BenchCase const& c, BenchOptions const& options);

/// Regions to the fourth level, then every kernel, copy and product by time; `ceiling` of one rank, GFLOP/s.
void say_profile(Console& console, BenchCase const& c, BenchOptions const& options, double ceiling);

}  // namespace upit
