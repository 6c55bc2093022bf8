// SPDX-License-Identifier: Apache-2.0
#include "upit/train/loop.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include "upit/core/timer.hpp"
#include "upit/io/files.hpp"
#include "upit/train/schedule.hpp"
#include "upit/train/step_log.hpp"

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
    if (name.size() != 17 || !name.starts_with("state-") || !name.ends_with(".h5")) continue;
    std::string const digits = name.substr(6, 8);
    if (digits.find_first_not_of("0123456789") == std::string::npos) steps.push_back(std::stoll(digits));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

constexpr Index kKeptStates = 2;

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

LoopReport train_loop(Trainer<float>& trainer, TokenStore const& store, BatchPlan const& plan,
                      LoopSettings const& settings, LoopHooks const& hooks, Console& console,
                      MetricsFile* metrics) {
  Communicator const& comm = trainer.comm();
  Index const state_bytes = state_file_bytes(trainer.table());
  double save_seconds = 0.0;
  std::optional<StepLog> log;
  auto const save = [&](Index step) {
    Stopwatch const watch;
    ModelFileInfo info = settings.info;
    info.kind = "state";
    info.step = step;
    write_state(state_path(settings.directory, step), comm, info, trainer.table(), trainer.weights(),
                trainer.optimizer().first_moment(), trainer.optimizer().second_moment(),
                trainer.parallel().grid, log->window());
    comm.agree_on_root([&] {
      auto const kept = states(settings.directory);
      for (Index i = 0; i + kKeptStates < static_cast<Index>(kept.size()); ++i) {
        fs::remove(state_path(settings.directory, kept[static_cast<std::size_t>(i)]));
      }
    });
    save_seconds = watch.seconds();
  };
  Index first = 0;
  std::vector<double> window;
  if (Index const newest = newest_state(settings.directory, comm); newest >= 0) {
    first = read_state(state_path(settings.directory, newest), comm, trainer.table(), trainer.weights(),
                       trainer.optimizer().first_moment(), trainer.optimizer().second_moment(), &window);
    Exec const exec;
    trainer.values().round(exec);
    exec.fence();
    comm.agree([&] {
      require(first <= settings.steps,
              fmt::format("{} stands at step {}, but stage {} has {} steps",
                          state_path(settings.directory, newest), first, settings.title, settings.steps));
    });
    console.say(fmt::format("{}: going on after step {} of {}", settings.title, first, settings.steps));
  }
  // A third state is written before the oldest goes.
  comm.agree_on_root([&] {
    if (first == settings.steps) return;
    require_free_space(settings.directory, state_bytes * (kKeptStates + 1) + settings.output_bytes,
                       "restart states and results of stage " + settings.title);
  });
  comm.agree_on_root([&] {
    if (metrics != nullptr) metrics->cut_back(settings.title, first);
  });
  log.emplace(trainer, settings.title, settings.steps, first, settings.log_every, console, metrics);
  log->resume(std::move(window));
  Stopwatch const whole;
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  LoopReport out{settings.steps, kNone, kNone};
  out.first = first;
  Index saved = first;
  for (Index step = first; step < settings.steps; ++step) {
    Stopwatch const step_watch;
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
    if (step == first) out.first_loss = report.loss;
    out.last_loss = report.loss;
    out.tokens += report.tokens;
    Index const done = step + 1;
    log->step(done, rate, step_watch.seconds(), report);
    if (hooks.after_step) hooks.after_step(done);
    bool const due = settings.checkpoint_every > 0 && done % settings.checkpoint_every == 0;
    // A stop comes at the end of a step and writes a state: so much must be left.
    double const reserve = 2.0 * (step_watch.seconds() + save_seconds);
    bool const stop = done < settings.steps && hooks.should_stop && hooks.should_stop(reserve);
    if (stop || (due && done < settings.steps)) {
      save(done);
      saved = done;
    }
    if (stop) {
      log->finish();
      throw Interrupted(fmt::format(
          "{}: stopped by {} after step {} of {}; the same command goes on from there", settings.title,
          hooks.stop_reason ? hooks.stop_reason() : "request", done, settings.steps));
    }
  }
  log->finish();
  out.seconds = whole.seconds();
  out.routers = log->routers();
  return out;
}

}  // namespace upit
