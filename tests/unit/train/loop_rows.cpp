// SPDX-License-Identifier: Apache-2.0
// Owns tests of what a stage's loop tells while it runs: rows of metrics, lines of progress.
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <thread>

#include "support/training_loop.hpp"
#include "unit/io/scratch.hpp"

namespace upit::test {
namespace {

TrainingCase case_named(std::string const& name) {
  for (auto const& c : training_cases()) {
    if (c.name == name) return c;
  }
  throw std::runtime_error("no such case");
}

/// A row of metrics without its columns of time.
std::vector<std::string> told(std::string const& path) {
  std::vector<std::string> rows;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::vector<std::string> cells(1);
    for (char const ch : line) ch == ',' ? cells.emplace_back() : (cells.back() += ch, cells.back());
    cells.resize(cells.size() - 2);
    rows.push_back(fmt::format("{}", fmt::join(cells, ",")));
  }
  return rows;
}

std::vector<std::string> columns() {
  return {"loss",    "learning_rate", "norm", "targets",           "balance",
          "entropy", "imbalance",     "dead", "tokens_per_second", "seconds"};
}

// A state between two rows: what a row tells must not depend on where the launch began.
TEST(LoopRows, OfAResumedStageAreThoseOfAStraightOne) {
  Communicator const comm = Communicator::world();
  TrainingCase const routed = case_named("branch");
  Scratch const a, b;
  MetricsFile straight(a.path("metrics.csv"), columns()), resumed(b.path("metrics.csv"), columns());
  LoopCase l{.directory = a.path("."), .checkpoint_every = 3, .log_every = 5, .metrics = &straight};
  EXPECT_EQ(run_loop(comm, routed, l).first, 0);
  l.directory = b.path(".");
  l.metrics = &resumed;
  l.after_step = [](Index step, Trainer<float>&) {
    if (step == 4) throw Killed();
  };
  EXPECT_THROW(run_loop(comm, routed, l), Killed);
  l.after_step = nullptr;
  LoopOutcome const rest = run_loop(comm, routed, l);
  EXPECT_EQ(rest.first, 3);
  EXPECT_EQ(rest.steps_run, 5);
  auto const rows = told(a.path("metrics.csv"));
  ASSERT_EQ(rows.size(), 7u);  // the header; steps 5 and 8, each with a row for each of two layers
  EXPECT_EQ(told(b.path("metrics.csv")), rows);
}

TEST(LoopProgress, ALogBeginsWithTheFirstStep) {
  Scratch const s;
  std::FILE* const log = std::fopen(s.path("log").c_str(), "w");
  ASSERT_NE(log, nullptr);
  {
    Console console(true, log);
    run_loop(Communicator::world(), case_named("lora"),
             {.directory = s.path("."), .log_every = 6, .console = &console});
  }
  std::fclose(log);
  std::ifstream in(s.path("log"));
  std::string first;
  std::getline(in, first);
  EXPECT_TRUE(first.starts_with("stage  1/8 (12 %)  loss ")) << first;
}

TEST(LoopProgress, ATerminalSeesStepsBetweenRows) {
  int const master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
  if (master < 0) GTEST_SKIP() << "this machine gives no pseudo-terminal";
  ASSERT_EQ(grantpt(master), 0);
  ASSERT_EQ(unlockpt(master), 0);
  int const slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  ASSERT_GE(slave, 0);
  winsize size = {};
  size.ws_col = 80;
  size.ws_row = 24;
  ASSERT_EQ(ioctl(slave, TIOCSWINSZ, &size), 0);
  unsetenv("TERM");
  std::FILE* const terminal = fdopen(slave, "w");
  Scratch const s;
  {
    Console console(true, terminal);
    ASSERT_TRUE(console.terminal());
    LoopCase l{.directory = s.path("."), .steps = 3, .log_every = 100, .console = &console};
    // The line is drawn ten times a second at most.
    l.after_step = [](Index, Trainer<float>&) {
      std::this_thread::sleep_for(std::chrono::milliseconds(150));
    };
    run_loop(Communicator::world(), case_named("lora"), l);
  }
  std::string text;
  std::array<char, 4096> piece{};
  for (ssize_t count = 0; (count = read(master, piece.data(), piece.size())) > 0;) {
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
  std::fclose(terminal);
  close(master);
  for (char const* step : {"stage  1/3", "stage  2/3", "stage  3/3"}) {
    EXPECT_NE(text.find(step), std::string::npos) << step << " is not in " << text;
  }
}

}  // namespace
}  // namespace upit::test
