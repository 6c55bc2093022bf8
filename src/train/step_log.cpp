// SPDX-License-Identifier: Apache-2.0
// Owns the words and columns in which a step is told.
#include "upit/train/step_log.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace upit {

StepLog::StepLog(Trainer<float> const& trainer, std::string stage, Index steps, Index first, Index log_every,
                 Console& console, MetricsFile* metrics)
    : trainer_(&trainer),
      stage_(std::move(stage)),
      steps_(steps),
      log_every_(log_every),
      row_before_(first / log_every * log_every),
      console_(&console),
      metrics_(metrics),
      gates_(trainer.expert_config().router == RouterUse::gate),
      progress_(console, stage_, steps, first) {
  ExpertConfig const& expert = trainer.expert_config();
  if (expert.mixes_ffns() && trainer.parallel().spread()) {
    ranges_ = expert_ranges(expert.count, trainer.parallel().grid->expert().size());
  }
}

/// What routers do in this step, and who got nothing since the last row.
void StepLog::summarise(StepReport const& report, Index done) {
  Index const layers = trainer_->model_config().layers, experts = trainer_->expert_config().count;
  RouterSummary& r = routers_;
  r.balance = report.balance;
  r.entropy = report.load.layer_entropy;
  r.imbalance.clear();
  r.dead.clear();
  for (Index l = 0; l < layers; ++l) {
    r.imbalance.push_back(report.load.layer_imbalance(l, experts));
    r.dead.push_back(window_.layer_dead(l, experts));
  }
  r.window = done - row_before_;
  if (!ranges_.empty()) r.rank_imbalance = report.load.rank_imbalance(experts, ranges_);
}

void StepLog::row(Index done, std::vector<MetricsFile::Cell> cells, StepReport const& report) {
  Communicator const& comm = trainer_->comm();
  RouterSummary& r = routers_;
  if (!ranges_.empty()) {
    double sums[2] = {blocked_, bytes_};
    comm.sum(std::span<double>(sums));
    r.exchange_share = sums[0] / comm.size() / std::max(since_row_.seconds(), 1e-9);
    // Divided by the steps of this launch that the row covers; a resumed row may cover fewer than its window.
    r.exchange_bytes = sums[1] / static_cast<double>(std::max<Index>(counted_, 1));
    r.rounds = std::max(r.rounds, comm.max(trainer_->exchange_rounds()));
    cells.insert(cells.end(), {{"rank_imbalance", r.rank_imbalance}, {"exchange_share", r.exchange_share}});
  }
  comm.agree_on_root([&] {
    if (metrics_ == nullptr) return;
    metrics_->append(stage_, done, cells);
    for (std::size_t l = 0; l < r.imbalance.size() && gates_; ++l) {
      metrics_->append(fmt::format("{}.layer_{:02}", stage_, l), done,
                       {{"imbalance", r.imbalance[l]},
                        {"entropy", r.entropy[l]},
                        {"dead", static_cast<double>(r.dead[l])}});
    }
  });
  Index const dead = gates_ ? window_.dead() : 0;
  if (dead > 0 && !warned_ && report.load.tokens > 0.0) {
    warned_ = true;
    console_->say(
        fmt::format("warning: {}: {} of {} experts (all layers) got no token in the last {} steps; a larger "
                    "post_train.balance spreads tokens, and this is not said again",
                    stage_, dead, window_.assigned.size(), r.window));
  }
  since_row_.restart();
  tokens_ = counted_ = 0;
  blocked_ = bytes_ = 0.0;
  window_ = {};
  row_before_ = done;
}

void StepLog::step(Index done, double rate, StepReport const& report) {
  tokens_ += report.tokens;
  blocked_ += report.exchange.blocked;
  bytes_ += report.exchange.bytes;
  ++counted_;
  if (gates_) window_.add(report.load);
  bool const is_row = done % log_every_ == 0 || done == steps_;
  if (!is_row && !first_ && !console_->terminal()) return;
  first_ = false;
  double const seconds = std::max(since_row_.seconds(), 1e-9);
  double const tokens_per_second = static_cast<double>(tokens_) / seconds;
  std::vector<MetricsFile::Cell> cells = {
      {"loss", report.loss}, {"learning_rate", rate},
      {"norm", report.norm}, {"tokens_per_second", tokens_per_second},
      {"seconds", seconds},  {"targets", static_cast<double>(report.targets)}};
  std::string text = fmt::format("loss {:.4f}  {:.0f} tokens/s", report.loss, tokens_per_second);
  if (gates_) {
    summarise(report, done);
    double const worst = *std::ranges::max_element(routers_.imbalance);
    cells.insert(cells.end(), {{"balance", report.balance},
                               {"entropy", report.load.entropy},
                               {"imbalance", worst},
                               {"dead", static_cast<double>(window_.dead())}});
    text += fmt::format("  load {:.2f}x", worst);
  }
  progress_.update(done, text);
  if (is_row) row(done, std::move(cells), report);
}

}  // namespace upit
