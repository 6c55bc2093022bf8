// SPDX-License-Identifier: Apache-2.0
// Owns one training step: micro-steps, sums over ranks, load balance, clipping, AdamW.
#pragma once

#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/model/model.hpp"
#include "upit/text/batches.hpp"
#include "upit/train/optimizer.hpp"
#include "upit/train/router_load.hpp"

namespace upit {

struct TrainerOptions {
  kernels::AdamwStep adamw;  // learning rate and step are set per step
  double clip = 1.0;         // 0: none
  double balance = 0.0;      // coefficient of the load-balancing loss
  bool loss_on_all = false;
  std::uint64_t seed = 1;         // of dropout
  double language_weight = 1.0;   // weight of the language-model loss: alpha of stage 3 (Eq. 2)
  double auxiliary_weight = 0.0;  // weight of the auxiliary router loss: 1 - alpha
  Precision precision = Precision::fp32;
};

struct StepReport {
  double loss = 0.0;       // nats per target of the global batch
  double balance = 0.0;    // load-balancing loss, mean over micro-steps; 1 when uniform
  double auxiliary = 0.0;  // mean over layers and tokens of -log sigmoid(r.h)
  double norm = 0.0;       // of the gradient before clipping
  Index tokens = 0, targets = 0;
  RouterLoad load;
  ExchangeStatistics exchange;  // of this rank
};

/// A model with weights, gradient and optimizer. All ranks of `comm` hold the same weights, FFN experts
/// excepted where `parallel`, a grid of `comm`, spreads them; each computes its part of every micro-step.
/// Nothing is allocated on the device in a step. T is what gradients and masters are held in; what is
/// computed in, the options say.
template <class T>
class Trainer {
 public:
  Trainer(Communicator const& comm, ModelConfig const& model, ExpertConfig const& expert, Trained trained,
          Index max_tokens, TrainerOptions const& options, ExpertParallel const& parallel = {});

  /// One optimizer step on the global batch that `micro_steps` describe. `step` from 0: keys dropout and
  /// AdamW's bias correction. `negatives`: further micro-steps that only meet the auxiliary loss, with target
  /// 0. If the loss or the gradient is not finite the weights stay as they are: look at the report.
  StepReport step(TokenStore const& store, std::vector<MicroStep> const& micro_steps, Index step,
                  double learning_rate, std::vector<MicroStep> const& negatives = {});

  ParameterTable const& table() const { return *table_; }
  ModelConfig const& model_config() const { return config_; }
  ExpertConfig const& expert_config() const { return expert_; }
  /// What is trained, and loaded: with bf16 rounding after a change is the caller's (`round`).
  ModelWeights<T> const& values() const { return weights_; }
  /// The same in fp32: with bf16 only what is trained.
  Weights<T> const& weights() const { return weights_.fp32; }
  Optimizer<T> const& optimizer() const { return optimizer_; }
  Model<T>& model() { return model_; }
  /// Most rounds that a token exchange has taken in this rank's group.
  Index exchange_rounds() const { return model_.exchange_rounds(); }
  /// (L) rows that came to this rank's experts in the last step; empty unless experts are spread.
  std::vector<double> const& received() const { return model_.received(); }
  View1<Real<T>> const& gradient() const { return gradient_; }
  Batch& batch() { return batch_; }
  Communicator const& comm() const { return *comm_; }
  ExpertParallel const& parallel() const { return parallel_; }
  Index bytes() const;

 private:
  void micro_step(MicroStep const& micro, Index step, double scale, Index parts, StepReport& report);
  std::vector<double> balance_coefficients(Index parts, StepReport& report);
  void sum_gradient(Exec const& exec);
  double gradient_norm(Exec const& exec);

  Communicator const* comm_;
  ModelConfig config_;
  ExpertConfig expert_;
  ExpertParallel parallel_;
  bool spread_;                            // experts differ from rank to rank
  std::unique_ptr<ParameterTable> table_;  // the model keeps a reference
  TrainerOptions options_;
  ModelWeights<T> weights_;
  View1<Real<T>> gradient_;
  Optimizer<T> optimizer_;
  Model<T> model_;
  Batch batch_;
  HostBatch host_;
};

extern template class Trainer<float>;
extern template class Trainer<double>;

}  // namespace upit
