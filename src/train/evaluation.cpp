// SPDX-License-Identifier: Apache-2.0
#include "upit/train/evaluation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"
#include "upit/train/batch_builder.hpp"

namespace upit {
namespace {

/// What is known before any forward pass: targets, domains, and where the samples' values will stand.
Evaluation prepare(TokenStore const& store, std::span<Index const> samples,
                   EvaluationOptions const& options) {
  Evaluation out;
  out.domains = store.domains;
  out.nll.assign(samples.size(), 0.0);
  out.token_begin.push_back(0);
  for (Index const i : samples) {
    out.targets.push_back(store.targets(i, options.loss_on_all));
    out.domain.push_back(store.samples[at(i)].domain);
    out.token_begin.push_back(out.token_begin.back() + out.targets.back());
  }
  if (options.keep_tokens) out.token_nll.assign(at(out.token_begin.back()), 0.0);
  return out;
}

}  // namespace

double PartLoss::mean() const {
  return targets > 0 ? nll / static_cast<double>(targets) : std::numeric_limits<double>::quiet_NaN();
}

double PartLoss::perplexity() const { return std::exp(mean()); }

PartLoss total_loss(Evaluation const& evaluation, std::string name) {
  PartLoss all;
  all.name = std::move(name);
  all.samples = evaluation.samples();
  all.nll = std::accumulate(evaluation.nll.begin(), evaluation.nll.end(), 0.0);
  all.targets = std::accumulate(evaluation.targets.begin(), evaluation.targets.end(), Index{0});
  return all;
}

std::vector<PartLoss> loss_by_domain(Evaluation const& evaluation) {
  std::vector<PartLoss> parts;
  for (auto const& name : evaluation.domains) parts.push_back({name, 0.0, 0, 0});
  for (std::size_t s = 0; s < evaluation.nll.size(); ++s) {
    PartLoss& part = parts.at(static_cast<std::size_t>(evaluation.domain[s]));
    part.nll += evaluation.nll[s];
    part.targets += evaluation.targets[s];
    ++part.samples;
  }
  return parts;
}

std::vector<Index> experts_by_domain(Evaluation const& evaluation) {
  Index const domains = static_cast<Index>(evaluation.domains.size());
  Index const layers = evaluation.layers, experts = evaluation.expert_count;
  std::vector<Index> counts(at(layers * domains * experts), 0);
  for (Index s = 0; s < evaluation.samples() && !evaluation.experts.empty(); ++s) {
    Index const d = evaluation.domain[at(s)];
    for (Index l = 0; l < layers; ++l) {
      for (Index e = 0; e < experts; ++e) {
        counts[at((l * domains + d) * experts + e)] += evaluation.experts[at((s * layers + l) * experts + e)];
      }
    }
  }
  return counts;
}

template <class T>
Evaluator<T>::Evaluator(Communicator const& comm, ModelConfig const& model, ExpertConfig const& expert,
                        ParameterTable const& table, ExpertParallel const& parallel)
    : comm_(&comm), config_(model), expert_(expert), parallel_(parallel), table_(&table) {}

template <class T>
void Evaluator<T>::reserve(Index tokens, Precision precision) {
  if (model_ && tokens <= max_tokens_ && model_->precision() == precision) return;
  model_.reset();  // the old buffers go before the new ones come
  max_tokens_ = std::max<Index>(tokens, 1);
  model_ = std::make_unique<Model<T>>(precision, config_, expert_, *table_, max_tokens_, false, parallel_);
  batch_ = Batch(max_tokens_);
}

template <class T>
void Evaluator<T>::collect(std::span<Sequence const> sequences, std::unordered_map<Index, Index> const& place,
                           TokenStore const& store, EvaluationOptions const& options, Evaluation& out) const {
  auto const nll = model_->target_nll();
  bool const count = !out.experts.empty();
  auto const choices = count ? model_->router_choices() : std::vector<int>{};
  Index target = 0, token = 0;
  for (auto const& sequence : sequences) {
    for (Index const i : sequence.samples) {
      Index const s = place.at(i), targets = out.targets[at(s)], tokens = store.input_tokens(i);
      for (Index t = 0; t < targets; ++t) {
        double const value = nll[at(target + t)];
        out.nll[at(s)] += value;
        if (options.keep_tokens) out.token_nll[at(out.token_begin[at(s)] + t)] = value;
      }
      for (Index l = 0; l < out.layers && count; ++l) {
        Index const first = (l * batch_.tokens() + token) * expert_.active;
        for (Index k = first; k < first + tokens * expert_.active; ++k) {
          ++out.experts[at((s * out.layers + l) * out.expert_count + choices[at(k)])];
        }
      }
      target += targets;
      token += tokens;
    }
  }
}

template <class T>
Evaluation Evaluator<T>::evaluate(ModelWeights<T> const& weights, TokenStore const& store,
                                  std::span<Index const> samples, EvaluationOptions const& options) {
  ProfilingRegion const region("upit::evaluate");
  std::unordered_map<Index, Index> place;  // of the samples asked for, which may be few of a large store
  place.reserve(samples.size());
  for (std::size_t s = 0; s < samples.size(); ++s) {
    Index const i = samples[s];
    expect(i >= 0 && i < store.size(), "evaluation names samples of its store");
    expect(place.emplace(i, static_cast<Index>(s)).second, "evaluation takes a sample once");
  }
  comm_->agree([&] {
    for (Index const i : samples) {
      require(store.input_tokens(i) <= config_.context,
              fmt::format("sample {} ({}) has {} tokens to read; the model reads at most {}", i + 1,
                          store.domains[at(store.samples[at(i)].domain)], store.input_tokens(i),
                          config_.context));
    }
  });
  Evaluation out = prepare(store, samples, options);
  if (options.count_experts && expert_.router == RouterUse::gate) {
    out.layers = config_.layers;
    out.expert_count = expert_.count;
    out.experts.assign(samples.size() * at(out.layers * out.expert_count), 0);
  }
  auto const steps =
      evaluation_steps(store, samples, options.micro_batch, comm_->size(), options.loss_on_all);
  auto const rank = static_cast<std::size_t>(comm_->rank());
  Index largest = 0;
  for (auto const& step : steps) {
    Index tokens = 0;
    for (auto const& sequence : step.per_rank[rank]) {
      for (Index const i : sequence.samples) tokens += store.input_tokens(i);
    }
    largest = std::max(largest, tokens);
  }
  bool const together = parallel_.spread() && expert_.mixes_ffns();
  if (together) largest = comm_->max(largest);  // building the model is collective: all ranks or none
  reserve(largest, weights.precision);
  Exec const exec;
  for (auto const& step : steps) {
    auto const& mine = step.per_rank[rank];
    if (mine.empty() && !together) continue;
    build_batch(store, mine, options.loss_on_all, true, host_);
    batch_.assign(host_);
    model_->forward(exec, weights, batch_, PassOptions{}, View1<Real<T>>());
    collect(mine, place, store, options, out);
  }
  // A sample's values stand on one rank and are zero elsewhere, so these sums round nothing.
  comm_->sum(std::span<double>(out.nll));
  if (options.keep_tokens) comm_->sum(std::span<double>(out.token_nll));
  if (!out.experts.empty()) comm_->sum(std::span<Index>(out.experts));
  return out;
}

template <class T>
Evaluation Evaluator<T>::evaluate(ModelWeights<T> const& weights, TokenStore const& store,
                                  EvaluationOptions const& options) {
  std::vector<Index> all(at(store.size()));
  std::iota(all.begin(), all.end(), Index{0});
  return evaluate(weights, store, all, options);
}

template class Evaluator<float>;
template class Evaluator<double>;

}  // namespace upit
