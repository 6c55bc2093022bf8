// SPDX-License-Identifier: Apache-2.0
// Owns a stage's training from its first step, or its newest restart state, to its last.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "upit/core/console.hpp"
#include "upit/io/metrics.hpp"
#include "upit/train/model_file.hpp"
#include "upit/train/step_log.hpp"
#include "upit/train/trainer.hpp"

namespace upit {

struct LoopSettings {
  std::string title;      // as progress and metrics name the stage
  std::string directory;  // full path; restart states go here
  Index steps = 0;
  Index first_sample = 0;  // position in the running order of samples
  bool loss_on_all = false;
  std::string schedule = "constant";
  double learning_rate = 0.0, warmup = 0.0;
  Index checkpoint_every = 0;  // steps; 0: none before the end
  Index log_every = 1;
  Index output_bytes = 0;  // what the stage will write beside its restart states
  ModelFileInfo info;      // of restart states
};

/// What the loop needs from above; every function is called on all ranks.
struct LoopHooks {
  std::function<bool(double reserve)> should_stop;  // asked once a step; seconds that a stop will take
  std::function<std::string()> stop_reason;
  std::function<void(Index step)> after_step;  // steps done so far; writes snapshots
};

/// How a stage's training went, as far as this launch saw it.
struct LoopReport {
  Index steps = 0;          // of the stage
  double first_loss = 0.0;  // NaN where no step was left to do
  double last_loss = 0.0;
  double seconds = 0.0;
  Index tokens = 0;
  Index first = 0;  // steps that were done before
  RouterSummary routers = {};
};

/// Trains from the newest restart state in `directory` (or from the weights as they are) to the last step.
/// Keeps the newest two states. Rows of the metrics: see `StepLog`. Metrics are cut back to where it resumes.
/// Throws `Interrupted` after a restart state when `should_stop`; `AgreedError` naming the step on a
/// non-finite loss, weights as of the last good step being in the last state. `metrics` is null on ranks that
/// do not write. Throws `AgreedError` before the first step unless the disk has room for what the stage will
/// write.
LoopReport train_loop(Trainer<float>& trainer, TokenStore const& store, BatchPlan const& plan,
                      LoopSettings const& settings, LoopHooks const& hooks, Console& console,
                      MetricsFile* metrics);

/// Step of the newest restart state in `directory`; -1 without one. Rank 0 looks, all know.
Index newest_state(std::string const& directory, Communicator const& comm);

}  // namespace upit
