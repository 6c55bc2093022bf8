// SPDX-License-Identifier: Apache-2.0
#include "upit/train/loop.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <set>

#include "upit/core/progress.hpp"
#include "upit/core/timer.hpp"
#include "upit/train/schedule.hpp"

namespace upit {
namespace {

namespace fs = std::filesystem;

std::string state_path(std::string const& directory, Index step) {
  return fmt::format("{}/state-{:08}.h5", directory, step);
}

std::vector<Index> states(std::string const& directory) {
  std::vector<Index> steps;
  std::error_code ignored;
  for (auto const& entry : fs::directory_iterator(directory, ignored)) {
    std::string const name = entry.path().filename().string();
    if (name.size() == 17 && name.starts_with("state-") && name.ends_with(".h5")) {
      steps.push_back(std::stoll(name.substr(6, 8)));
    }
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

constexpr std::size_t kKeptStates = 2;

}  // namespace

Index newest_state(std::string const& directory, Communicator const& comm) {
  std::vector<Index> newest = {-1};
  comm.agree_on_root([&] {
    auto const steps = states(directory);
    if (!steps.empty()) newest[0] = steps.back();
  });
  comm.broadcast(std::span<Index>(newest));
  return newest[0];
}

double train_loop(Trainer<float>& trainer, TokenStore const& store, BatchPlan const& plan,
                  LoopSettings const& settings, LoopHooks const& hooks, Console& console, MetricsFile* metrics) {
  Communicator const& comm = trainer.comm();
  auto const save = [&](Index step) {
    ModelFileInfo info = settings.info;
    info.kind = "state";
    info.step = step;
    write_state(state_path(settings.directory, step), comm, info, trainer.table(), trainer.weights(),
                trainer.optimizer().first_moment(), trainer.optimizer().second_moment());
    comm.agree_on_root([&] {
      auto const kept = states(settings.directory);
      for (std::size_t i = 0; i + kKeptStates < kept.size(); ++i) fs::remove(state_path(settings.directory, kept[i]));
    });
  };
  Index first = 0;
  if (Index const newest = newest_state(settings.directory, comm); newest >= 0) {
    first = read_state(state_path(settings.directory, newest), comm, trainer.table(), trainer.weights(),
                       trainer.optimizer().first_moment(), trainer.optimizer().second_moment());
    console.say(fmt::format("{}: going on after step {} of {}", settings.title, first, settings.steps));
  }
  if (metrics != nullptr) metrics->cut_back(settings.title, first);
  Progress progress(console, settings.title, settings.steps, first);
  Stopwatch since_log;
  Index tokens = 0, saved = first;
  double loss = std::numeric_limits<double>::quiet_NaN();
  ExpertConfig const& expert = trainer.expert_config();
  for (Index step = first; step < settings.steps; ++step) {
    double const rate =
        learning_rate(settings.schedule, settings.learning_rate, settings.warmup, step, settings.steps);
    auto const micro = plan.step(step, settings.first_sample, comm.size(), settings.loss_on_all);
    StepReport const report = trainer.step(store, micro, step, rate);
    // Loss and norm are sums over ranks, so that every rank sees the same and takes the same branch.
    if (!std::isfinite(report.loss) || !std::isfinite(report.norm)) {
      throw AgreedError(fmt::format(
          "{}: the {} is not finite at step {} (loss {}, gradient norm {}); {}", settings.title,
          std::isfinite(report.loss) ? "gradient" : "loss", step + 1, report.loss, report.norm,
          saved > 0 ? fmt::format("the state after step {} is kept; lower the learning rate", saved)
                    : std::string("no state had been saved yet; lower the learning rate")));
    }
    loss = report.loss;
    tokens += report.tokens;
    Index const done = step + 1;
    if (done % settings.log_every == 0 || done == settings.steps) {
      double const seconds = std::max(since_log.seconds(), 1e-9);
      double const rate_of_tokens = static_cast<double>(tokens) / seconds;
      progress.update(done, fmt::format("loss {:.4f}  {:.0f} tokens/s", loss, rate_of_tokens));
      if (metrics != nullptr) {
        std::vector<MetricsFile::Cell> cells = {{"loss", loss},
                                                {"learning_rate", rate},
                                                {"norm", report.norm},
                                                {"tokens_per_second", rate_of_tokens},
                                                {"seconds", seconds},
                                                {"targets", static_cast<double>(report.targets)}};
        if (expert.router == RouterUse::gate) {
          cells.emplace_back("balance", report.balance);
          cells.emplace_back("entropy", report.load.entropy);
          cells.emplace_back("imbalance", report.load.imbalance(trainer.model_config().layers, expert.count));
          cells.emplace_back("dead", static_cast<double>(report.load.dead()));
        }
        metrics->append(settings.title, done, cells);
      }
      since_log.restart();
      tokens = 0;
    }
    if (hooks.after_step) hooks.after_step(done);
    bool const due = settings.checkpoint_every > 0 && done % settings.checkpoint_every == 0;
    bool const stop = done < settings.steps && hooks.should_stop && hooks.should_stop();
    if (stop || (due && done < settings.steps)) {
      save(done);
      saved = done;
    }
    if (stop) {
      progress.finish();
      throw Interrupted(fmt::format("{}: stopped by {} after step {} of {}; the same command goes on from there",
                                    settings.title, hooks.stop_reason ? hooks.stop_reason() : "request", done,
                                    settings.steps));
    }
  }
  progress.finish();
  return loss;
}

}  // namespace upit
