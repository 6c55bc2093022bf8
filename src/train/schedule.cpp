// SPDX-License-Identifier: Apache-2.0
#include "upit/train/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "upit/core/error.hpp"

namespace upit {

double learning_rate(std::string const& schedule, double peak, double warmup, Index step, Index steps) {
  require(schedule == "constant" || schedule == "cosine",
          "schedule is \"" + schedule + "\"; allowed: \"constant\", \"cosine\"");
  double const total = static_cast<double>(std::max<Index>(steps, 1));
  double const warm = std::floor(warmup * total);
  auto const t = static_cast<double>(step);
  if (t < warm) return peak * (t + 1.0) / warm;
  if (schedule == "constant") return peak;
  constexpr double kFloor = 0.1;
  double const progress = std::min(1.0, (t - warm) / std::max(1.0, total - warm));
  return peak * (kFloor + (1.0 - kFloor) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace upit
