// SPDX-License-Identifier: Apache-2.0
// Owns AdamW (Loshchilov and Hutter 2019) of one number: what the optimizer is compared with.
#pragma once

#include <cmath>

#include "upit/kernels/adamw.hpp"

namespace upit::test {

struct PlainAdamw {
  double m = 0.0, v = 0.0;
  /// The weight after a step; `s.gradient_scale` is not looked at.
  double step(double w, double g, kernels::AdamwStep const& s) {
    auto const t = static_cast<double>(s.step);
    m = s.beta1 * m + (1.0 - s.beta1) * g;
    v = s.beta2 * v + (1.0 - s.beta2) * g * g;
    double const mean = m / (1.0 - std::pow(s.beta1, t)), square = v / (1.0 - std::pow(s.beta2, t));
    return w - s.learning_rate * s.weight_decay * w -
           s.learning_rate * mean / (std::sqrt(square) + s.epsilon);
  }
};

}  // namespace upit::test
