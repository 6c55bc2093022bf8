// SPDX-License-Identifier: Apache-2.0
// Owns the one place where a run's precision becomes a type.
#pragma once

#include <variant>

#include "upit/model/model_weights.hpp"
#include "upit/model/transformer.hpp"

namespace upit {

/// A transformer in the precision that is chosen when it is made; functions as those of `Transformer`. R is
/// what losses and gradients are held in.
template <class R>
class Model {
 public:
  Model(Precision precision, ModelConfig const& model, ExpertConfig const& expert,
        ParameterTable const& table, Index max_tokens, bool with_backward,
        ExpertParallel const& parallel = {});

  /// `weights` must be of the model's precision.
  double forward(Exec const& exec, ModelWeights<R> const& weights, Batch const& batch,
                 PassOptions const& options, View1<R> const& gradient);
  void backward(Exec const& exec, ModelWeights<R> const& weights, Batch const& batch,
                PassOptions const& options, std::vector<double> const& balance, View1<R> const& gradient);

  Precision precision() const;
  RouterCounts const& router_counts() const;
  ExchangeStatistics take_exchange_statistics();
  Index exchange_rounds() const;
  std::vector<double> const& received() const;
  void set_auxiliary(AuxiliaryOptions const& options);
  double auxiliary_loss() const;
  std::vector<double> target_nll() const;
  std::vector<int> router_choices() const;
  std::vector<double> router_logits() const;
  Index bytes() const;

 private:
  // In double there is one precision only.
  using Rounded = std::conditional_t<std::is_same_v<R, float>, Transformer<bfloat16>, std::monostate>;
  using Any = std::variant<Transformer<R>, Rounded>;
  static Any make(Precision precision, ModelConfig const& model, ExpertConfig const& expert,
                  ParameterTable const& table, Index max_tokens, bool with_backward,
                  ExpertParallel const& parallel);

  Any any_;
};

extern template class Model<float>;
extern template class Model<double>;

}  // namespace upit
