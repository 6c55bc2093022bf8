// SPDX-License-Identifier: Apache-2.0
// Owns forward and backward of the whole model; buffers are sized once, nothing is allocated in a step.
#pragma once

#include <memory>

#include "upit/core/random.hpp"
#include "upit/model/batch.hpp"
#include "upit/model/ffn_experts.hpp"
#include "upit/model/parameters.hpp"

namespace upit {

/// What a pass needs to know beside weights and batch.
struct PassOptions {
  bool train = false;       // save for backward, dropout on
  std::uint64_t seed = 0;   // of dropout
  Index step = 0;           // of dropout
  double loss_scale = 1.0;  // weight of each token's nll in the loss: 1 / targets of the global batch
};

/// Router statistics of one pass over this rank's tokens, on the host.
struct RouterCounts {
  std::vector<double> assigned;     // (L, E) tokens sent to each expert
  std::vector<double> probability;  // (L, E) sum over tokens of softmax over all E logits
  std::vector<double> entropy;      // (L) sum over tokens of the entropy of that softmax, nats
  double tokens = 0;
};

/// Loss of stage 3 on router rows that do not gate (Eq. 2): coefficient and target of each pass.
struct AuxiliaryOptions {
  double weight = 0.0;   // (1 - alpha) / (L * tokens of the global batch)
  bool positive = true;  // target 1, or 0 for tokens of other buckets
};

template <class T>
class Transformer {
 public:
  /// Sizes every buffer for `max_tokens` tokens a pass. `table` must outlive this object; it holds the
  /// experts that `parallel` gives this rank. Where experts are spread over ranks, construction and passes
  /// are collective over the group, with empty batches on ranks that have no tokens.
  Transformer(ModelConfig const& model, ExpertConfig const& expert, ParameterTable const& table,
              Index max_tokens, bool with_backward, ExpertParallel const& parallel = {});
  ~Transformer();
  Transformer(Transformer&&) noexcept;
  Transformer& operator=(Transformer&&) noexcept;

  /// Runs the model on `batch`. With `options.train` and targets present, the head's backward runs too
  /// (logits are never kept) and head gradients are added to `gradient`.
  /// Returns the sum of nll over this rank's targets, in nats.
  double forward(Exec const& exec, Weights<T> const& weights, Batch const& batch, PassOptions const& options,
                 View1<Real<T>> const& gradient);

  /// Backward of the last training forward; adds into `gradient` (table.gradient_extent()).
  ///   balance  (L, E)  on the host: d(loss)/d(probability of expert e for one token), the same for all
  ///                    tokens: lambda * E * f_e / (L * T * micro-steps); empty: no load-balancing loss
  void backward(Exec const& exec, Weights<T> const& weights, Batch const& batch, PassOptions const& options,
                std::vector<double> const& balance, View1<Real<T>> const& gradient);

  /// Router statistics of the last forward. Empty vectors without gating routers.
  RouterCounts const& router_counts() const;

  /// Time and bytes of token exchanges since the last call, of this rank; zeros where no tokens travel.
  ExchangeStatistics take_exchange_statistics();
  /// Most rounds that an exchange has taken since construction, on any rank of the group.
  Index exchange_rounds() const;
  /// (L) rows that came to this rank's experts since `take_exchange_statistics` was called last but one, or
  /// since then if passes have followed; empty where no tokens travel.
  std::vector<double> const& received() const;

  /// With RouterUse::auxiliary: the loss that the next passes use.
  void set_auxiliary(AuxiliaryOptions const& options);
  /// Of the last forward: the sum over layers and tokens of -log sigmoid(r.h), or of -log sigmoid(-r.h) for
  /// target 0. Without the weight.
  double auxiliary_loss() const;

  /// nll of each target of the last forward, (batch.targets()) on the host, in order of target_rows.
  std::vector<double> target_nll() const;
  /// Router choices of the last forward: (L, N, K) expert ids on the host.
  std::vector<int> router_choices() const;
  /// Router logits of the last forward, (L, N, E) on the host; empty without routers.
  std::vector<double> router_logits() const;
  /// Logits of the rows `row` of the last forward's batch, (rows, V) on the host: for tests and small tools.
  std::vector<double> logits(Exec const& exec, Weights<T> const& weights, std::vector<int> const& row);
  /// Bytes of all buffers.
  Index bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

extern template class Transformer<float>;
extern template class Transformer<double>;
extern template class Transformer<bfloat16>;

}  // namespace upit
