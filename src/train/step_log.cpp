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
      spread_(trainer.expert_config().mixes_ffns() && trainer.parallel().spread()),
      progress_(console, stage_, steps, first) {}

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
}

/// Collective: what all ranks waited and got.
void StepLog::exchange(StepReport const& report, std::vector<MetricsFile::Cell>& cells) {
  Communicator const& comm = trainer_->comm();
  RouterSummary& r = routers_;
  r.rank_imbalance =
      rank_imbalance(comm.gather_all(std::span<double const>(trainer_->received())),
                     trainer_->model_config().layers, trainer_->parallel().grid->expert().size());
  double sums[4] = {since_row_waited_.blocked, report.exchange.bytes, whole_waited_.blocked,
                    whole_waited_.bytes};
  comm.sum(std::span<double>(sums));
  Waited const &now = since_row_waited_, &all = whole_waited_;
  double const ranks = comm.size();
  r.exchange_seconds = sums[2] / ranks / all.steps;
  r.exchange_share = sums[2] / ranks / std::max(all.seconds, 1e-9);
  r.exchange_bytes = sums[3] / all.steps;
  r.rounds = comm.max(trainer_->exchange_rounds());
  cells.insert(cells.end(), {{"rank_imbalance", r.rank_imbalance},
                             {"exchange_bytes", sums[1]},
                             {"exchange_seconds", sums[0] / ranks / now.steps},
                             {"exchange_share", sums[0] / ranks / std::max(now.seconds, 1e-9)}});
}

void StepLog::row(Index done, std::vector<MetricsFile::Cell> cells, StepReport const& report) {
  Communicator const& comm = trainer_->comm();
  RouterSummary& r = routers_;
  if (spread_) exchange(report, cells);
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
  tokens_ = 0;
  since_row_waited_ = {};
  window_ = {};
  row_before_ = done;
}

void StepLog::step(Index done, double rate, double seconds, StepReport const& report) {
  tokens_ += report.tokens;
  for (Waited* const w : {&since_row_waited_, &whole_waited_}) {
    w->blocked += report.exchange.blocked;
    w->bytes += report.exchange.bytes;
    w->seconds += seconds;
    w->steps += 1.0;
  }
  if (gates_) window_.add(report.load);
  bool const is_row = done % log_every_ == 0 || done == steps_;
  if (!is_row && !first_ && !console_->terminal()) return;
  first_ = false;
  double const elapsed = std::max(since_row_.seconds(), 1e-9);
  double const tokens_per_second = static_cast<double>(tokens_) / elapsed;
  std::vector<MetricsFile::Cell> cells = {
      {"loss", report.loss}, {"learning_rate", rate},
      {"norm", report.norm}, {"tokens_per_second", tokens_per_second},
      {"seconds", elapsed},  {"targets", static_cast<double>(report.targets)}};
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
