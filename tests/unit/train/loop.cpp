// SPDX-License-Identifier: Apache-2.0
// Owns tests of a stage's loop on one rank: states kept, metrics, rates, errors.
#include "upit/train/loop.hpp"

#include <cmath>

#include "support/training_loop.hpp"
#include "unit/io/scratch.hpp"

namespace upit::test {
namespace {

namespace fs = std::filesystem;

TrainingCase lora() { return training_cases()[2]; }

std::vector<std::string> files(Scratch const& s) {
  std::vector<std::string> names;
  for (auto const& entry : fs::directory_iterator(s.path()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::string> metrics_columns() {
  return {"loss",    "learning_rate", "norm",    "tokens_per_second", "seconds",
          "targets", "balance",       "entropy", "imbalance",         "dead"};
}

/// Steps of the rows of a metrics file, in order, and the cells of `column`; of one layer with its name.
std::vector<std::pair<int, std::string>> read_metrics(std::string const& path, std::size_t column,
                                                      std::string const& part = "") {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  std::vector<std::pair<int, std::string>> rows;
  while (std::getline(file, line)) {
    std::vector<std::string> cells(1);
    for (char const ch : line) ch == ',' ? cells.emplace_back() : (cells.back() += ch, cells.back());
    EXPECT_TRUE(cells.at(0).starts_with("stage")) << cells.at(0);
    if (cells.at(0) != "stage" + part) continue;
    rows.emplace_back(std::stoi(cells.at(1)), cells.at(2 + column));
  }
  return rows;
}

TEST(TrainLoop, KeepsTheNewestTwoStates) {
  Scratch const s;
  Communicator const comm = Communicator::world();
  EXPECT_EQ(newest_state(s.path(), comm), -1);
  EXPECT_EQ(newest_state(s.path("missing"), comm), -1);
  LoopCase l{.directory = s.path(), .checkpoint_every = 1};
  l.after_step = [&](Index step, Trainer<float>&) {
    // States of earlier steps: at most two, the newest among them.
    EXPECT_LE(files(s).size(), 2u);
    EXPECT_EQ(newest_state(s.path(), comm), step > 1 ? step - 1 : -1);
  };
  run_loop(comm, lora(), l);
  EXPECT_EQ(files(s), (std::vector<std::string>{"state-00000006.h5", "state-00000007.h5"}));
}

TEST(TrainLoop, FilesOfOthersAreNoStates) {
  Scratch const s;
  Communicator const comm = Communicator::world();
  for (auto const* name : {"state-00000003.h5.tmp", "state-3.h5", "model.h5", "state-00000003.txt"})
    s.write(name, "x");
  EXPECT_EQ(newest_state(s.path(), comm), -1);
}

TEST(TrainLoop, DoneStaysDone) {
  Scratch const s;
  Communicator const comm = Communicator::world();
  EXPECT_THROW(run_loop(comm, lora(), {.directory = s.path(), .stop_after = 5}), Interrupted);
  LoopOutcome const out = run_loop(comm, lora(), {.directory = s.path(), .steps = 5});
  EXPECT_EQ(out.steps_run, 0);
  EXPECT_TRUE(std::isnan(out.loss));
  // The weights are those of the state, not those the trainer began with.
  Scratch const fresh;
  LoopOutcome const straight =
      run_loop(comm, lora(), {.directory = fresh.path(), .steps = 8, .stop_after = -1});
  EXPECT_NE(out.weights, straight.weights);
  Scratch const other;
  auto const random =
      random_weights<float>(ParameterTable(lora().tiny.model, lora().tiny.expert, lora().tiny.trained), 5);
  EXPECT_NE(out.weights, flat(random));
}

TEST(TrainLoop, InterruptionSaysWhyAndWhere) {
  Scratch const s;
  try {
    run_loop(Communicator::world(), lora(), {.directory = s.path(), .stop_after = 2});
    ADD_FAILURE() << "no interruption";
  } catch (Interrupted const& e) {
    EXPECT_THAT(e.what(),
                ::testing::AllOf(::testing::HasSubstr("a test"), ::testing::HasSubstr("step 2 of 8")));
  }
  // A stop after the last step is no interruption.
  EXPECT_EQ(run_loop(Communicator::world(), lora(), {.directory = s.path(), .stop_after = 8}).steps_run, 6);
}

TEST(TrainLoop, MetricsAreCutBackAndHoldTheRate) {
  Scratch const s;
  Communicator const comm = Communicator::world();
  MetricsFile metrics(s.path("metrics.csv"), metrics_columns());
  LoopCase l{.directory = s.path("."), .checkpoint_every = 4, .log_every = 1, .metrics = &metrics};
  l.after_step = [](Index step, Trainer<float>&) {
    if (step == 7) throw Killed();
  };
  EXPECT_THROW(run_loop(comm, lora(), l), Killed);
  EXPECT_EQ(read_metrics(s.path("metrics.csv"), 0).size(), 7u);
  l.after_step = nullptr;
  run_loop(comm, lora(), l);
  auto const rates = read_metrics(s.path("metrics.csv"), 1);
  ASSERT_EQ(rates.size(), 8u);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(rates[static_cast<std::size_t>(i)].first, i + 1);
    // Warm-up over 2 of 8 steps, then a cosine over 6 to a tenth.
    double const share =
        i < 2 ? 0.5 * (i + 1) : 0.1 + 0.45 * (1.0 + std::cos(3.14159265358979324 * (i - 2) / 6.0));
    EXPECT_NEAR(std::stod(rates[static_cast<std::size_t>(i)].second), share * kTrainingRate, 1e-15);
  }
  // Every third step and the last, and router columns for a model that has routers.
  Scratch const t;
  MetricsFile few(t.path("metrics.csv"), metrics_columns());
  for (auto const& c : training_cases()) {
    if (c.name == "branch") run_loop(comm, c, {.directory = t.path(), .metrics = &few});
  }
  auto const balance = read_metrics(t.path("metrics.csv"), 6);
  ASSERT_EQ(balance.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(balance[i].first, std::vector<int>({3, 6, 8})[i]);
    EXPECT_GT(std::stod(balance[i].second), 0.0);
    // What the row tells of the worst layer stands in the rows of the layers.
    double worst = 0.0, dead = 0.0;
    for (std::string const layer : {".layer_00", ".layer_01"}) {
      worst = std::max(worst, std::stod(read_metrics(t.path("metrics.csv"), 8, layer).at(i).second));
      dead += std::stod(read_metrics(t.path("metrics.csv"), 9, layer).at(i).second);
      EXPECT_EQ(read_metrics(t.path("metrics.csv"), 8, layer).at(i).first, balance[i].first);
    }
    EXPECT_EQ(worst, std::stod(read_metrics(t.path("metrics.csv"), 8).at(i).second));
    EXPECT_EQ(dead, std::stod(read_metrics(t.path("metrics.csv"), 9).at(i).second));
  }
}

TEST(TrainLoop, WithoutAStateTheErrorSaysSo) {
  Scratch const s;
  LoopCase l{.directory = s.path()};
  l.after_step = [](Index step, Trainer<float>& trainer) {
    if (step == 1) Kokkos::deep_copy(trainer.weights().expert, std::nanf(""));
  };
  expect_error([&] { run_loop(Communicator::world(), lora(), l); }, {"stage", "step 2", "no state"});
}

TEST(TrainLoop, AnUnknownScheduleIsAnError) {
  Scratch const s;
  expect_error(
      [&] { run_loop(Communicator::world(), lora(), {.directory = s.path(), .schedule = "linear"}); },
      {"linear", "constant", "cosine"});
}

TEST(TrainLoop, ADamagedStateIsAnError) {
  Scratch const s;
  EXPECT_THROW(run_loop(Communicator::world(), lora(), {.directory = s.path(), .stop_after = 2}),
               Interrupted);
  fs::resize_file(s.path("state-00000002.h5"), fs::file_size(s.path("state-00000002.h5")) / 2);
  expect_error([&] { run_loop(Communicator::world(), lora(), {.directory = s.path()}); },
               {"state-00000002.h5"});
}

}  // namespace
}  // namespace upit::test
