// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/route_training.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"
#include "upit/core/random.hpp"
#include "upit/core/timer.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/train/batch_builder.hpp"

namespace upit::upcycle {
namespace {

// Samples on which the routing vectors' logits are compared: some thousand tokens in each layer.
constexpr std::size_t kLogitSamples = 32;

/// Seed of a stream of its own for a purpose of this stage.
std::uint64_t stream(std::uint64_t seed, char const* purpose, Index expert) {
  RandomKey const key = random_key(seed, purpose, expert);
  return (static_cast<std::uint64_t>(key.high) << 32) | key.low;
}

TrainerOptions with_own_dropout(TrainerOptions options) {
  options.seed = stream(options.seed, "route dropout", 0);
  return options;
}

/// Tokens of one rank in one pass, for every bucket.
Index largest_pass(RouteTraining const& s, TokenStore const& store,
                   std::vector<std::vector<Index>> const& buckets, int ranks) {
  Index largest = 0;
  for (auto const& bucket : buckets) {
    BatchPlan const plan(store, bucket, s.context, s.packing, s.batch, s.micro_batch, s.seed);
    largest = std::max(largest, plan.max_tokens_per_rank(ranks));
  }
  return largest;
}

View1<float> copy_of(View1<float> const& from) {
  View1<float> const copy("upit::route.vectors", from.extent(0));
  Kokkos::deep_copy(copy, from);
  return copy;
}

View1<float> difference(View1<float> const& a, View1<float> const& b) {
  View1<float> const out = copy_of(b);
  kernels::scale<float>(Exec(), -1.0F, out);
  kernels::add<float>(Exec(), a, out);
  return out;
}

}  // namespace

RouteTrainer::RouteTrainer(Communicator const& group, RouteTraining const& settings, TokenStore const& store,
                           std::vector<std::vector<Index>> buckets)
    : group_(&group),
      settings_(settings),
      store_(&store),
      buckets_(std::move(buckets)),
      trainer_(group, settings.model, settings.expert, Trained{false, true, true},
               largest_pass(settings, store, buckets_, group.size()), with_own_dropout(settings.options)) {
  expect(settings.expert.count == 1 && settings.expert.router == RouterUse::auxiliary,
         "stage 3 trains one expert with routing vectors that do not gate");
}

BatchPlan RouteTrainer::plan(std::vector<Index> samples, char const* purpose, Index expert) const {
  RouteTraining const& s = settings_;
  return BatchPlan(*store_, std::move(samples), s.context, s.packing, s.batch, s.micro_batch,
                   stream(s.seed, purpose, expert));
}

std::vector<Index> RouteTrainer::others(Index expert) const {
  std::vector<Index> samples;
  for (std::size_t e = 0; e < buckets_.size(); ++e) {
    if (static_cast<Index>(e) != expert)
      samples.insert(samples.end(), buckets_[e].begin(), buckets_[e].end());
  }
  return samples;
}

Index RouteTrainer::steps(Index expert) const {
  Index const planned = plan(buckets_[at(expert)], "route order", expert).steps(settings_.epochs);
  return settings_.max_steps < 0 ? planned : std::min(planned, settings_.max_steps);
}

std::optional<RouteOutcome> RouteTrainer::train(Index expert,
                                                std::function<void(RouteStep const&)> const& after_step,
                                                std::function<bool(double)> const& stop) {
  ProfilingRegion const region("upit::route_training");
  Weights<float> const& weights = trainer_.weights();
  std::vector<Index> const& bucket = buckets_[at(expert)];
  initialise_router(trainer_.table(), settings_.seed, expert, weights);
  trainer_.values().round(Exec());
  trainer_.optimizer().reset(Exec());
  View1<float> const start = copy_of(weights.router);

  RouteOutcome out;
  out.expert = expert;
  out.steps = steps(expert);
  Losses const before = evaluate(bucket, true);
  BatchPlan const positives = plan(bucket, "route order", expert);
  BatchPlan const negatives =
      plan(settings_.negatives ? others(expert) : std::vector<Index>{}, "route negatives", expert);
  bool const all = settings_.options.loss_on_all;
  Stopwatch const whole;
  for (Index step = 0; step < out.steps; ++step) {
    Stopwatch const watch;
    auto const own = positives.step(step, 0, group_->size(), all);
    auto const foreign =
        negatives.samples() > 0 ? negatives.step(step, 0, group_->size(), all) : std::vector<MicroStep>{};
    StepReport const r = trainer_.step(*store_, own, step, settings_.learning_rate, foreign);
    if (!std::isfinite(r.loss) || !std::isfinite(r.auxiliary) || !std::isfinite(r.norm)) {
      throw AgreedError(
          fmt::format("route: expert {}, step {}: loss {}, auxiliary loss {}, gradient norm {}; a finite "
                      "loss is needed to go "
                      "on (a smaller route.learning_rate may help)",
                      expert, step, r.loss, r.auxiliary, r.norm));
    }
    double const seconds = std::max(watch.seconds(), 1e-9);
    if (after_step) {
      after_step(
          {step, r.loss, r.auxiliary, r.norm, static_cast<double>(r.tokens) / seconds, whole.seconds()});
    }
    if (stop && step + 1 < out.steps && group_->any(stop(seconds))) return std::nullopt;
  }
  Losses const after = evaluate(bucket, true);
  out.loss_before = before.loss;
  out.loss_after = after.loss;
  out.auxiliary_before = before.auxiliary;
  out.auxiliary_after = after.auxiliary;

  View1<float> const end = copy_of(weights.router);
  View1<float> const change = difference(end, start);
  std::vector<Index> const some(
      bucket.begin(), bucket.begin() + static_cast<std::ptrdiff_t>(std::min(kLogitSamples, bucket.size())));
  out.spread = logit_rms(start, some);
  out.moved = logit_rms(change, some);
  Kokkos::deep_copy(weights.router, end);
  return out;
}

/// Mean losses without dropout over all targets and tokens of the samples; NaN if there are none.
RouteTrainer::Losses RouteTrainer::evaluate(std::vector<Index> const& samples, bool positive) {
  Index const block = std::min(settings_.batch, settings_.micro_batch);
  auto const passes =
      evaluation_steps(*store_, samples, block, group_->size(), settings_.options.loss_on_all);
  Exec const exec;
  double sums[2] = {0.0, 0.0};
  Index targets = 0, tokens = 0;
  trainer_.model().set_auxiliary({0.0, positive});
  for (auto const& pass : passes) {
    targets += pass.targets;
    tokens += pass.tokens;
    auto const& mine = pass.per_rank[static_cast<std::size_t>(group_->rank())];
    if (mine.empty()) continue;
    build_batch(*store_, mine, settings_.options.loss_on_all, true, host_);
    trainer_.batch().assign(host_);
    sums[0] +=
        trainer_.model().forward(exec, trainer_.values(), trainer_.batch(), PassOptions{}, View1<float>());
    sums[1] += trainer_.model().auxiliary_loss();
  }
  group_->sum(std::span<double>(sums));
  double const nothing = std::numeric_limits<double>::quiet_NaN();
  auto const mean = [nothing](double sum, Index count) {
    return count > 0 ? sum / static_cast<double>(count) : nothing;
  };
  return {mean(sums[0], targets), mean(sums[1], tokens * settings_.model.layers)};
}

/// Root of the mean over layers and tokens of (v.h)^2.
double RouteTrainer::logit_rms(View1<float> const& vectors, std::vector<Index> const& samples) {
  Kokkos::deep_copy(trainer_.weights().router, vectors);
  Index const block = std::min(settings_.batch, settings_.micro_batch);
  double sums[2] = {0.0, 0.0};
  for (auto const& pass : evaluation_steps(*store_, samples, block, group_->size(), false)) {
    auto const& mine = pass.per_rank[static_cast<std::size_t>(group_->rank())];
    if (mine.empty()) continue;
    build_batch(*store_, mine, false, false, host_);
    trainer_.batch().assign(host_);
    trainer_.model().forward(Exec(), trainer_.values(), trainer_.batch(), PassOptions{}, View1<float>());
    for (double const z : trainer_.model().router_logits()) {
      sums[0] += z * z;
      sums[1] += 1.0;
    }
  }
  group_->sum(std::span<double>(sums));
  return sums[1] > 0.0 ? std::sqrt(sums[0] / sums[1]) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace upit::upcycle
