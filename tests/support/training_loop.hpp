// SPDX-License-Identifier: Apache-2.0
// Owns a short stage run through train_loop, which tests stop, break and resume.
#pragma once

#include <cstring>
#include <functional>
#include <stdexcept>

#include "support/tiny_training.hpp"
#include "upit/train/loop.hpp"

namespace upit::test {

struct LoopCase {
  std::string directory;
  Index steps = 8;
  Index checkpoint_every = 0;
  Index log_every = 3;
  std::string schedule = "cosine";
  double learning_rate = kTrainingRate;
  /// Called on every rank after a step; may throw.
  std::function<void(Index step, Trainer<float>&)> after_step = nullptr;
  Index stop_after = -1;  // should_stop says yes from this step on
  MetricsFile* metrics = nullptr;
  Console* console = nullptr;  // null: a silent one
};

/// All that a stage leaves in memory.
struct LoopOutcome {
  double loss = 0.0;
  std::vector<float> weights, first_moment, second_moment;
  Index steps_run = 0;
  Index first = 0;  // steps done before
};

inline LoopOutcome run_loop(Communicator const& comm, TrainingCase const& c, LoopCase const& l) {
  TokenStore const store = tiny_store(14, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  BatchPlan const plan(store, kTrainingContext, c.packing, c.batch, c.micro_batch, 4);
  Trainer<float> trainer(comm, c.tiny.model, c.tiny.expert, c.tiny.trained,
                         plan.max_tokens_per_rank(comm.size()), training_options<float>(c));
  copy_held(trainer.table(), trainer.values(), trainer.table(), random_weights<float>(trainer.table(), 5));
  LoopSettings settings;
  settings.title = "stage";
  settings.directory = l.directory;
  settings.steps = l.steps;
  settings.first_sample = 5;
  settings.schedule = l.schedule;
  settings.learning_rate = l.learning_rate;
  settings.warmup = 0.25;
  settings.checkpoint_every = l.checkpoint_every;
  settings.log_every = l.log_every;
  settings.info.model = c.tiny.model;
  settings.info.expert = c.tiny.expert;
  LoopOutcome out;
  Index done = 0;
  LoopHooks hooks;
  hooks.after_step = [&](Index step) {
    done = step;
    ++out.steps_run;
    if (l.after_step) l.after_step(step, trainer);
  };
  hooks.should_stop = [&](double) { return l.stop_after >= 0 && done >= l.stop_after; };
  hooks.stop_reason = [] { return std::string("a test"); };
  Console silent(false);
  LoopReport const report = train_loop(trainer, store, plan, settings, hooks,
                                       l.console != nullptr ? *l.console : silent, l.metrics);
  out.loss = report.last_loss;
  out.first = report.first;
  out.weights = flat(trainer.weights());
  out.first_moment = flat(trainer.optimizer().first_moment());
  out.second_moment = flat(trainer.optimizer().second_moment());
  return out;
}

/// Thrown where a test lets a job die.
struct Killed : std::runtime_error {
  Killed() : std::runtime_error("killed") {}
};

}  // namespace upit::test
