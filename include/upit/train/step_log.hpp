// SPDX-License-Identifier: Apache-2.0
// Owns what a training stage tells while it runs: the progress line, rows of metrics.csv, warnings about
// routers.
#pragma once

#include <string>
#include <vector>

#include "upit/core/console.hpp"
#include "upit/core/progress.hpp"
#include "upit/core/timer.hpp"
#include "upit/io/metrics.hpp"
#include "upit/train/trainer.hpp"

namespace upit {

/// Routers at the end of a stage; vectors by layer, empty without gating routers.
struct RouterSummary {
  double balance = 0.0;                    // load-balancing loss of the last step
  std::vector<double> imbalance, entropy;  // largest over mean load, nats: of the last step
  std::vector<Index> dead;                 // experts without a token in the last `window` steps
  Index window = 0;
  double rank_imbalance = 0.0;  // of the last step (router_load.hpp); 0 where no ranks share experts
  // Token exchange, over all steps of this launch: time that a rank waited in a step, the mean over ranks;
  // its share in the time of steps; bytes of a step from rank to rank, the sum.
  double exchange_seconds = 0.0, exchange_share = 0.0, exchange_bytes = 0.0;
  Index rounds = 1;  // most that an exchange took
};

/// A row of the metrics tells of its step alone, so that a resumed stage writes the rows of a straight one;
/// but "dead" counts over the steps since the row before, which a restart state carries as `window()`, and
/// times are since the row before or the start. With gating routers, rows "stage.layer_NN" follow each row.
class StepLog {
 public:
  /// All ranks make one; `metrics` is null on ranks that do not write.
  StepLog(Trainer<float> const& trainer, std::string stage, Index steps, Index first, Index log_every,
          Console& console, MetricsFile* metrics);

  /// After step `done`, counted from 1, which took `seconds`. Collective at rows.
  void step(Index done, double rate, double seconds, StepReport const& report);
  void finish() { progress_.finish(); }

  /// (L, E) tokens that experts got since the last row; empty without gating routers.
  std::vector<double> const& window() const { return window_.assigned; }
  void resume(std::vector<double> window) { window_.assigned = std::move(window); }
  RouterSummary const& routers() const { return routers_; }

 private:
  /// Of exchanges, on this rank.
  struct Waited {
    double blocked = 0.0, bytes = 0.0, seconds = 0.0, steps = 0.0;
  };
  void exchange(StepReport const& report, std::vector<MetricsFile::Cell>& cells);
  void row(Index done, std::vector<MetricsFile::Cell> cells, StepReport const& report);
  void summarise(StepReport const& report, Index done);

  Trainer<float> const* trainer_;
  std::string stage_;
  Index steps_, log_every_, row_before_;
  Console* console_;
  MetricsFile* metrics_;
  bool gates_;
  bool spread_;  // ranks share out FFN experts
  Progress progress_;
  Stopwatch since_row_;
  Index tokens_ = 0;
  Waited since_row_waited_, whole_waited_;
  RouterLoad window_;
  RouterSummary routers_;
  bool first_ = true, warned_ = false;
};

}  // namespace upit
