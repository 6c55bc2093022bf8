// SPDX-License-Identifier: Apache-2.0
// Owns the learning rate over the steps of a stage.
#pragma once

#include <string>

#include "upit/core/index.hpp"

namespace upit {

/// Learning rate of step `step` (from 0) of `steps`: linear warm-up over the first `warmup` share of the
/// steps, then constant, or a cosine from `peak` to a tenth of it. schedule: "constant" | "cosine"; others
/// throw `Error`.
double learning_rate(std::string const& schedule, double peak, double warmup, Index step, Index steps);

}  // namespace upit
