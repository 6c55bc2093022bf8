// SPDX-License-Identifier: Apache-2.0
// Owns what the parts of a timed step count as work: FLOPs and bytes, for rates and floors.
#pragma once

#include <string_view>

#include "upit/train/bench.hpp"

namespace upit {

/// Work of one step on one rank.
struct Work {
  double flops = 0.0;
  double bytes = 0.0;      // read and written, each input and output once a call
  double set_bytes = 0.0;  // distinct bytes of one call
};

/// Work of everything under `label` in a step of case `c`, `calls` of it a step. Products: 2 m n k, and their
/// operands once. Attention: 2 s d FLOPs a token and layer forward and 4 s d backward, as `flops_per_token`
/// counts, and its tensors once. Kernels: bytes by kernels/traffic. Zeros for what is not known.
Work work_of(BenchOptions const& options, BenchCase const& c, std::string_view label, double calls);

}  // namespace upit
