// SPDX-License-Identifier: Apache-2.0
// Owns the loss of a model on given samples, by sample and domain, and where its routers send their tokens.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/model/model.hpp"
#include "upit/text/batches.hpp"

namespace upit {

struct EvaluationOptions {
  Index micro_batch = 64;  // samples of one forward pass, over all ranks
  bool loss_on_all = false;
  bool keep_tokens = false;    // fill `token_nll`
  bool count_experts = false;  // fill `experts`; nothing without gating routers
};

/// S samples in the order they were asked for; the same on every rank.
struct Evaluation {
  std::vector<double> nll;     // (S) sum over the sample's targets, nats
  std::vector<Index> targets;  // (S)
  std::vector<int> domain;     // (S) counts into `domains`
  std::vector<std::string> domains;
  std::vector<double> token_nll;       // of every target, sample after sample
  std::vector<Index> token_begin;      // (S + 1) first target of each sample in it
  std::vector<Index> experts;          // (S, L, E) slots of the sample's tokens, prompt included
  Index layers = 0, expert_count = 0;  // L and E of `experts`

  Index samples() const { return static_cast<Index>(nll.size()); }
};

/// Loss of a part of the samples.
struct PartLoss {
  std::string name;
  double nll = 0.0;
  Index samples = 0, targets = 0;
  /// Nats per target; NaN without targets.
  double mean() const;
  double perplexity() const;
};

/// Mean over the targets of all samples.
PartLoss total_loss(Evaluation const& evaluation, std::string name = "all");
/// One entry a domain, in order of number; domains without samples included.
std::vector<PartLoss> loss_by_domain(Evaluation const& evaluation);
/// (L, domains, E): slots that tokens of a domain's samples took in each expert.
std::vector<Index> experts_by_domain(Evaluation const& evaluation);

/// Forward passes without backward on every rank's share. Buffers grow to the largest pass asked for and
/// stay.
template <class T>
class Evaluator {
 public:
  /// `comm` and `table` must outlive this object; `table` holds the experts that `parallel`, a grid of
  /// `comm`, gives this rank.
  Evaluator(Communicator const& comm, ModelConfig const& model, ExpertConfig const& expert,
            ParameterTable const& table, ExpertParallel const& parallel = {});

  /// The samples of `store` with these indices, each at most once, or all. Fixed blocks of `micro_batch` in
  /// the given order are dealt to ranks, each sample to one: between rank counts results differ only by how
  /// products of other extents round. Collective; throws `AgreedError` if a sample is longer than the model's
  /// context. Computes in the precision of `weights`.
  Evaluation evaluate(ModelWeights<T> const& weights, TokenStore const& store, std::span<Index const> samples,
                      EvaluationOptions const& options);
  Evaluation evaluate(ModelWeights<T> const& weights, TokenStore const& store,
                      EvaluationOptions const& options);

  /// Bytes of the buffers now held.
  Index bytes() const { return model_ ? model_->bytes() : 0; }

 private:
  void reserve(Index tokens, Precision precision);
  void collect(std::span<Sequence const> sequences, std::unordered_map<Index, Index> const& place,
               TokenStore const& store, EvaluationOptions const& options, Evaluation& out) const;

  Communicator const* comm_;
  ModelConfig config_;
  ExpertConfig expert_;
  ExpertParallel parallel_;
  ParameterTable const* table_;
  std::unique_ptr<Model<T>> model_;
  Index max_tokens_ = 0;
  Batch batch_;
  HostBatch host_;
};

extern template class Evaluator<float>;
extern template class Evaluator<double>;

}  // namespace upit
