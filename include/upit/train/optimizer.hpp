// SPDX-License-Identifier: Apache-2.0
// Owns the optimizer's state: moments of everything trained, laid out as the gradient is.
#pragma once

#include <array>
#include <vector>

#include "upit/kernels/adamw.hpp"
#include "upit/model/model_weights.hpp"

namespace upit {

/// AdamW with clipping by the global norm over all trained tensors. Moments start at zero.
template <class R>
class Optimizer {
 public:
  explicit Optimizer(ParameterTable const& table);

  /// Squares of the 2-norm of `gradient` (table.gradient_extent()), group by group in the order of their
  /// numbers, in double. Waits for `exec` once.
  std::array<double, 3> squared_norms(Exec const& exec, View1<R> const& gradient) const;

  /// One step, of masters and their rounded copy where `weights` are bf16. `settings.gradient_scale` is
  /// ignored: it is min(1, clip / norm), clip = 0 for no clipping.
  void step(Exec const& exec, ModelWeights<R> const& weights, View1<R> const& gradient, double norm,
            double clip, kernels::AdamwStep settings) const;

  View1<R> const& first_moment() const { return first_; }
  View1<R> const& second_moment() const { return second_; }
  /// Moments back to zero.
  void reset(Exec const& exec) const;
  Index bytes() const;

 private:
  std::vector<TrainedSpan> spans_;
  ParameterTable::Stretch stretch_[3];  // by group
  View1<R> first_, second_;             // (table.gradient_extent())
  View1<double> blocks_;
  View1<double> norms_;  // (3)
  PinnedView1<double> norms_host_;
};

extern template class Optimizer<float>;
extern template class Optimizer<double>;

}  // namespace upit
