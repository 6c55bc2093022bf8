// SPDX-License-Identifier: Apache-2.0
#include "upit/train/trainer.hpp"

#include <algorithm>
#include <cmath>

#include "upit/comm/collectives.hpp"
#include "upit/core/profiling.hpp"
#include "upit/train/batch_builder.hpp"

namespace upit {

template <class T>
Trainer<T>::Trainer(Communicator const& comm, ModelConfig const& model, ExpertConfig const& expert,
                    Trained trained, Index max_tokens, TrainerOptions const& options,
                    ExpertParallel const& parallel)
    : comm_(&comm),
      config_(model),
      expert_(expert),
      parallel_(parallel),
      spread_(expert.mixes_ffns() && parallel.spread()),
      table_(std::make_unique<ParameterTable>(model, expert, trained,
                                              spread_ ? parallel.held(expert.count) : ExpertRange{})),
      options_(options),
      weights_(options.precision, *table_),
      gradient_("upit::gradient", table_->gradient_extent()),
      optimizer_(*table_),
      model_(options.precision, model, expert, *table_, std::max<Index>(max_tokens, 1), true, parallel),
      batch_(std::max<Index>(max_tokens, 1)) {}

template <class T>
std::vector<double> Trainer<T>::balance_coefficients(Index parts, StepReport& report) {
  ProfilingRegion const region("upit::balance_coefficients");
  RouterCounts const& counts = model_.router_counts();
  std::size_t const le = counts.assigned.size();
  std::size_t const layer_count = counts.entropy.size();
  std::vector<double> sums(2 * le + layer_count + 1);
  std::copy(counts.assigned.begin(), counts.assigned.end(), sums.begin());
  std::copy(counts.probability.begin(), counts.probability.end(),
            sums.begin() + static_cast<std::ptrdiff_t>(le));
  std::copy(counts.entropy.begin(), counts.entropy.end(), sums.begin() + static_cast<std::ptrdiff_t>(2 * le));
  sums.back() = counts.tokens;
  comm_->sum(std::span<double>(sums));
  auto const layers = static_cast<double>(config_.layers), experts = static_cast<double>(expert_.count);
  double const tokens = sums.back();
  report.load.assigned.resize(le);
  report.load.tokens += tokens;
  report.load.layer_entropy.resize(layer_count);
  for (std::size_t l = 0; l < layer_count; ++l) {
    report.load.layer_entropy[l] += sums[2 * le + l];
    report.load.entropy += sums[2 * le + l] / layers;
  }
  std::vector<double> coefficient(le);
  for (std::size_t i = 0; i < le && tokens > 0.0; ++i) {
    double const share = sums[i] / (tokens * static_cast<double>(expert_.active));
    report.load.assigned[i] += sums[i];
    report.balance += experts * share * sums[le + i] / (tokens * layers * static_cast<double>(parts));
    coefficient[i] = options_.balance * experts * share / (layers * tokens * static_cast<double>(parts));
  }
  if (options_.balance == 0.0) coefficient.clear();
  return coefficient;
}

/// Ranks of a group have different experts, so their gradients are summed over the holders of the same ones.
template <class T>
void Trainer<T>::sum_gradient(Exec const& exec) {
  ProfilingRegion const region("upit::sum_gradient");
  if (!spread_) return upit::sum(*comm_, exec, gradient_);
  for (Group const group : {Group::backbone, Group::expert, Group::router}) {
    auto const s = table_->gradient_of(group);
    if (table_->trained()[group]) {
      upit::sum(group == Group::expert ? parallel_.grid->replicas() : *comm_, exec,
                View1<Real<T>>(gradient_.data() + s.first, s.count));
    }
  }
}

/// Every parameter counts once: experts by the group that holds them all, what all ranks hold by each rank.
template <class T>
double Trainer<T>::gradient_norm(Exec const& exec) {
  ProfilingRegion const region("upit::gradient_norm");
  auto const [backbone, own_experts, router] = optimizer_.squared_norms(exec, gradient_);
  double const experts = spread_ ? parallel_.grid->expert().sum(own_experts) : own_experts;
  double const norm = std::sqrt(backbone + experts + router);
  // Groups may add their shares in different orders, and one bit in the clipping would let replicas part.
  return spread_ ? comm_->max(norm) : norm;
}

template <class T>
void Trainer<T>::micro_step(MicroStep const& micro, Index step, double scale, Index parts,
                            StepReport& report) {
  {
    ProfilingRegion const region("upit::assign_batch");
    batch_.assign(host_);
  }
  Exec const exec;
  PassOptions options;
  options.train = true;
  options.seed = options_.seed;
  options.step = step;
  options.loss_scale = scale;
  double const nll = model_.forward(exec, weights_, batch_, options, gradient_);
  report.loss += nll;
  report.auxiliary += expert_.router == RouterUse::auxiliary ? model_.auxiliary_loss() : 0.0;
  std::vector<double> coefficient;
  if (expert_.router == RouterUse::gate) coefficient = balance_coefficients(parts, report);
  model_.backward(exec, weights_, batch_, options, coefficient, gradient_);
  report.tokens += micro.tokens;
}

template <class T>
StepReport Trainer<T>::step(TokenStore const& store, std::vector<MicroStep> const& micro_steps, Index step,
                            double learning_rate, std::vector<MicroStep> const& negatives) {
  ProfilingRegion const region("upit::train_step");
  Exec const exec;
  StepReport report;
  Index negative_tokens = 0, positive_tokens = 0;
  for (auto const& m : micro_steps) {
    report.targets += m.targets;
    positive_tokens += m.tokens;
  }
  for (auto const& m : negatives) negative_tokens += m.tokens;
  {
    ProfilingRegion const zero("upit::zero_gradient");
    Kokkos::deep_copy(exec, gradient_, Real<T>(0));
  }
  double const scale = options_.language_weight / static_cast<double>(std::max<Index>(report.targets, 1));
  double const auxiliary_terms =
      static_cast<double>(config_.layers * std::max<Index>(positive_tokens + negative_tokens, 1));
  auto const rank = static_cast<std::size_t>(comm_->rank());
  auto const parts = static_cast<Index>(micro_steps.size());
  for (auto const& m : micro_steps) {
    model_.set_auxiliary({options_.auxiliary_weight / auxiliary_terms, true});
    build_batch(store, m.per_rank[rank], options_.loss_on_all, true, host_);
    micro_step(m, step, scale, parts, report);
  }
  for (auto const& m : negatives) {
    model_.set_auxiliary({options_.auxiliary_weight / auxiliary_terms, false});
    build_batch(store, m.per_rank[rank], options_.loss_on_all, false, host_);
    micro_step(m, step, scale, parts, report);
  }
  double sums[2] = {report.loss, report.auxiliary};
  comm_->sum(std::span<double>(sums));
  report.loss = sums[0] / static_cast<double>(std::max<Index>(report.targets, 1));
  report.auxiliary = sums[1] / auxiliary_terms;
  if (report.load.tokens > 0.0) {
    report.load.entropy /= report.load.tokens;
    for (double& h : report.load.layer_entropy) h /= report.load.tokens;
  }
  sum_gradient(exec);
  report.norm = gradient_norm(exec);
  report.exchange = model_.take_exchange_statistics();
  if (std::isfinite(report.loss) && std::isfinite(report.norm)) {
    kernels::AdamwStep settings = options_.adamw;
    settings.learning_rate = learning_rate;
    settings.step = step + 1;
    optimizer_.step(exec, weights_, gradient_, report.norm, options_.clip, settings);
  }
  exec.fence();
  return report;
}

template <class T>
Index Trainer<T>::bytes() const {
  return model_.bytes() + optimizer_.bytes() + weights_.bytes() +
         static_cast<Index>(gradient_.span() * sizeof(Real<T>));
}

template class Trainer<float>;
template class Trainer<double>;

}  // namespace upit
