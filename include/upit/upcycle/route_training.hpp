// SPDX-License-Identifier: Apache-2.0
// Owns the training of stage 3: one expert and its routing vectors on one bucket (UpIT, equations 1 and 2).
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "upit/train/trainer.hpp"

namespace upit::upcycle {

struct RouteTraining {
  ModelConfig model;
  ExpertConfig expert;     // E = 1, RouterUse::auxiliary
  TrainerOptions options;  // language_weight = alpha, auxiliary_weight = 1 - alpha
  Index context = 0;       // tokens
  bool packing = false;
  Index batch = 16;
  Index micro_batch = 16;  // sequences over the ranks of one group
  double epochs = 4.0;
  double learning_rate = 2e-4;
  bool negatives = false;
  Index max_steps = -1;    // of one expert; negative: no limit
  std::uint64_t seed = 1;  // of the run: order of data, routing vectors
};

/// One optimizer step, as metrics.csv gets it.
struct RouteStep {
  Index step = 0;  // of this expert, from 0
  double loss = 0.0, auxiliary = 0.0, norm = 0.0, tokens_per_second = 0.0, seconds = 0.0;
};

/// What the stage did to one expert, measured without dropout. NaN for an empty bucket.
struct RouteOutcome {
  Index expert = 0, steps = 0;
  double loss_before = 0.0, loss_after = 0.0;            // nats per target of the bucket
  double auxiliary_before = 0.0, auxiliary_after = 0.0;  // mean over layers and tokens of -log sigmoid(r.h)
  double spread = 0.0;  // rms of r.h, r as it started: what a random router's logits spread
  double moved = 0.0;   // rms of the change of r.h; h of the trained expert in both
};

/// The trainer of a group of ranks: trains one expert after another on the group's ranks together.
class RouteTrainer {
 public:
  /// `buckets`: store indices of the samples of every expert. The caller loads backbone and, before each
  /// `train`, the expert into `values()`. `group` and `store` must outlive this object.
  RouteTrainer(Communicator const& group, RouteTraining const& settings, TokenStore const& store,
               std::vector<std::vector<Index>> buckets);

  /// Draws the routing vectors of `expert` as a random router's, N(0, 0.02) keyed by (seed, layer, expert),
  /// and trains both. With an empty bucket nothing is trained. Collective over the group; throws
  /// `AgreedError` naming expert and step if loss or gradient is not finite.
  ///
  /// `stop` is asked on every rank after every step but the last, with about the seconds until it is asked
  /// again. If any rank of the group says true, all give up: nothing is returned, the weights are of no use.
  std::optional<RouteOutcome> train(Index expert,
                                    std::function<void(RouteStep const&)> const& after_step = {},
                                    std::function<bool(double)> const& stop = {});

  /// Steps of an expert's training.
  Index steps(Index expert) const;

  ParameterTable const& table() const { return trainer_.table(); }
  ModelWeights<float> const& values() const { return trainer_.values(); }
  /// The same in fp32: with bf16 without the backbone.
  Weights<float> const& weights() const { return trainer_.weights(); }

 private:
  struct Losses {
    double loss = 0.0, auxiliary = 0.0;
  };
  BatchPlan plan(std::vector<Index> samples, char const* purpose, Index expert) const;
  std::vector<Index> others(Index expert) const;
  Losses evaluate(std::vector<Index> const& samples, bool positive);
  double logit_rms(View1<float> const& vectors, std::vector<Index> const& samples);

  Communicator const* group_;
  RouteTraining settings_;
  TokenStore const* store_;
  std::vector<std::vector<Index>> buckets_;
  Trainer<float> trainer_;
  HostBatch host_;
};

}  // namespace upit::upcycle
