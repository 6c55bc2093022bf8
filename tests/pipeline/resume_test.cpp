// SPDX-License-Identifier: Apache-2.0
// Owns the tests of stopping and going on: killed anywhere, one rank lost, a signal, a time limit. A resumed
// run equals the straight one bit for bit.
#include <sys/resource.h>

#include <random>

#include "support.hpp"

namespace upit::test {
namespace {

/// The straight run that others are compared with, made once for each number of ranks.
class Resume : public ::testing::TestWithParam<int> {
 protected:
  static void SetUpTestSuite() { place_ = std::make_unique<Workplace>(); }
  static void TearDownTestSuite() { place_.reset(); }
  std::string straight() const {
    std::string const name = "straight-" + std::to_string(GetParam());
    if (!fs::exists(place_->path(name))) place_->complete(GetParam(), name);
    return place_->path(name);
  }
  static std::unique_ptr<Workplace> place_;
};
std::unique_ptr<Workplace> Resume::place_;

INSTANTIATE_TEST_SUITE_P(Ranks, Resume, ::testing::Values(1, 2),
                         [](auto const& info) { return "On" + std::to_string(info.param); });

/// Where a kill falls: `sign` has appeared in a stage, and up to `jitter` milliseconds have gone by.
struct Moment {
  std::string stage;
  std::function<bool(std::string const& run)> sign;
  double jitter;
};

std::function<bool(std::string const&)> has_file(std::string const& name) {
  return [name](std::string const& run) { return fs::exists(run + "/" + name); };
}
std::function<bool(std::string const&)> has_state(std::string const& stage) {
  return [stage](std::string const& run) { return !state_steps(run, stage).empty(); };
}

TEST_P(Resume, KilledInEveryStageEqualsTheStraightRun) {
  std::string const reference = straight();
  std::vector<Moment> const moments = {
      {"pretrain", has_file("pretrain/stage.txt"), 5.0},
      {"pretrain", has_state("pretrain"), 20.0},
      {"prepare", has_file("prepare/checkpoint_01.h5"), 5.0},
      {"prepare", has_state("prepare"), 20.0},
      {"expand", has_file("expand/stage.txt"), 2.0},
      {"route", has_file("route/stage.txt"), 5.0},
      {"route", has_file("route/expert_00.h5"), 10.0},
      {"upcycle", has_file("upcycle/stage.txt"), 1.0},
      {"post_train", has_state("post_train"), 20.0},
      {"evaluate", has_file("evaluate/stage.txt"), 1.0},
  };
  Workplace const place;
  std::mt19937 random(static_cast<unsigned>(40 + GetParam()));
  std::string const run = place.path("run");
  for (auto const& moment : moments) {
    // A stage may be over before the kill arrives; then it is started again, and killed sooner.
    bool hit = false;
    for (int attempt = 0; attempt < 8 && !hit; ++attempt) {
      std::vector<std::string> arguments = place.deck("run");
      if (is_complete(run, moment.stage)) {
        arguments.insert(arguments.end(), {"--redo", moment.stage});
        fs::remove_all(run + "/" + moment.stage);  // so that its sign is not the old one
      } else if (moment.sign(run)) {
        // Killed here before: this moment is a later one of the same stage.
        hit = is_begun(run, moment.stage);
        if (hit) break;
      }
      auto const job = place.start(GetParam(), arguments);
      ASSERT_TRUE(wait_until([&] { return moment.sign(run) || !job->running(); }, kPatience, 0.2));
      if (!job->running()) {
        FAIL() << "ended before stage " << moment.stage << ":\n" << job->wait(1.0).all();
      }
      nap(std::uniform_real_distribution<double>(0.0, moment.jitter)(random) / (1 << attempt));
      job->kill_all();
      hit = is_begun(run, moment.stage);
    }
    EXPECT_TRUE(hit) << "no kill fell into stage " << moment.stage;
  }
  place.complete(GetParam(), "run");
  expect_no_row_twice(run);
  expect_same_run(reference, run);
}

TEST_P(Resume, KilledAtAnyTimeEqualsTheStraightRun) {
  std::string const reference = straight();
  Workplace const place;
  std::mt19937 random(static_cast<unsigned>(90 + GetParam()));
  for (int kill = 0; kill < 5; ++kill) {
    auto const job = place.start(GetParam(), place.deck("run"));
    // Counted from the lock, since how long MPI takes to start says nothing.
    ASSERT_TRUE(
        wait_until([&] { return fs::exists(place.path("run/metrics.csv")) || !job->running(); }, kPatience));
    nap(std::uniform_real_distribution<double>(100.0, 900.0)(random));
    job->kill_all();
  }
  place.complete(GetParam(), "run");
  expect_no_row_twice(place.path("run"));
  expect_same_run(reference, place.path("run"));
}

/// Rows that a stage has in metrics.csv while the program writes it.
int rows_of(std::string const& run, std::string const& stage) {
  int rows = 0;
  for (auto const& line : lines_of(read_all_text(run + "/metrics.csv")))
    rows += line.starts_with(stage + ",") ? 1 : 0;
  return rows;
}

TEST_P(Resume, ASignalEndsInACheckpointAndTheRunGoesOn) {
  std::string const reference = straight();
  Workplace const place;
  std::string const run = place.path("run");
  for (std::string const stage : {"pretrain", "prepare", "route", "post_train"}) {
    auto const job = place.start(GetParam(), place.deck("run"));
    // Stage 3 writes its rows an expert at a time: a signal after them would come too late.
    auto const is_there = [&] { return stage == "route" ? is_begun(run, stage) : rows_of(run, stage) >= 2; };
    ASSERT_TRUE(wait_until([&] { return is_there() || !job->running(); }, kPatience, 0.2));
    // Batch systems signal the launcher, which hands SIGUSR1 on but makes a kill of SIGTERM, or the ranks.
    std::string const name = stage == "post_train" ? "SIGTERM" : "SIGUSR1";
    if (name == "SIGUSR1")
      job->send(SIGUSR1);
    else
      for (pid_t const one : ranks_of(*job)) ::kill(one, SIGTERM);
    Outcome const outcome = job->wait(kPatience);
    SCOPED_TRACE(outcome.all());
    EXPECT_FALSE(outcome.timed_out);
    EXPECT_EQ(outcome.code, 75) << stage;
    EXPECT_THAT(outcome.err, HasSubstr("upit: stopped:"));
    EXPECT_THAT(outcome.err, HasSubstr(name));
    EXPECT_THAT(error_lines(outcome), ::testing::IsEmpty());
    expect_no_backtrace(outcome);
    EXPECT_TRUE(is_begun(run, stage)) << stage;
    // Every step that was told of is in the state, so that nothing is done twice.
    if (stage != "route") {
      auto const states = state_steps(run, stage);
      ASSERT_FALSE(states.empty());
      EXPECT_EQ(states.back(), rows_of(run, stage)) << stage;
    }
  }
  place.complete(GetParam(), "run");
  expect_no_row_twice(run);
  expect_same_run(reference, run);
}

TEST_P(Resume, ATimeLimitEndsInACheckpointAndTheRunGoesOn) {
  std::string const reference = straight();
  Workplace const place;
  // Five seconds before the limit are kept for the last checkpoint: this one is reached after the first step.
  Outcome const outcome = place.launch(GetParam(), place.deck("run", {"run.time_limit=5"}));
  SCOPED_TRACE(outcome.all());
  EXPECT_EQ(outcome.code, 75);
  EXPECT_THAT(outcome.err, HasSubstr("run.time_limit"));
  EXPECT_THAT(error_lines(outcome), ::testing::IsEmpty());
  EXPECT_EQ(state_steps(place.path("run"), "pretrain").size(), 1U);
  Outcome const rest = place.launch(GetParam(), place.deck("run"));
  EXPECT_EQ(rest.code, 0) << rest.all();
  EXPECT_THAT(rest.out, HasSubstr("generated documents, since step 1\n"));
  EXPECT_THAT(rest.out, HasSubstr("instruction tuning\n"));  // this one has begun here
  expect_no_row_twice(place.path("run"));
  expect_same_run(reference, place.path("run"));
}

/// A launch that must stop well in a stage.
void expect_stopped(Outcome const& outcome, std::string const& run, std::string const& stage,
                    std::string const& reason) {
  SCOPED_TRACE(outcome.all());
  EXPECT_FALSE(outcome.timed_out);
  EXPECT_EQ(outcome.code, 75);
  EXPECT_THAT(outcome.err, HasSubstr("upit: stopped:"));
  EXPECT_THAT(outcome.err, HasSubstr(reason));
  EXPECT_THAT(error_lines(outcome), ::testing::IsEmpty());
  expect_no_backtrace(outcome);
  EXPECT_TRUE(is_begun(run, stage)) << stage;
}

TEST_P(Resume, StopsInsideAnExpertAndBetweenEvaluations) {
  Workplace const place;
  // 150 steps an expert, so that a signal that is sent at the first finds it unfinished.
  std::vector<std::string> const longer = {"route.epochs=50"};
  place.complete(GetParam(), "straight", longer);
  std::string const run = place.path("run");
  fs::copy(place.path("straight"), run, fs::copy_options::recursive);
  auto const launch = [&](std::vector<std::string> const& more) {
    std::vector<std::string> arguments = place.deck("run", longer);
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  auto const experts = [&] {
    auto const names = files_of(run);
    return std::ranges::count_if(names, [](auto const& name) { return name.starts_with("route/expert_"); });
  };

  // A limit of the five seconds that are kept anyway is reached at once: after the first of three blocks.
  expect_stopped(place.launch(GetParam(), launch({"--redo", "route", "run.time_limit=5"})), run, "route",
                 "run.time_limit");
  H5File file = H5File::open(run + "/route/perplexity.h5", nullptr);
  for (double const known : file.read_all<double>("log_perplexity")) EXPECT_TRUE(std::isnan(known));
  file.close();

  {
    auto const job = place.start(GetParam(), launch({}));
    ASSERT_TRUE(wait_until([&] { return fs::exists(run + "/route/buckets.csv") || !job->running(); },
                           kPatience, 0.2));
    job->send(SIGUSR1);
    expect_stopped(job->wait(kPatience), run, "route", "SIGUSR1");
    EXPECT_EQ(experts(), 0);
  }

  // Perplexities are known, so this one is stopped after one step of training.
  expect_stopped(place.launch(GetParam(), launch({"run.time_limit=5"})), run, "route", "run.time_limit");
  EXPECT_EQ(experts(), 0);
  EXPECT_EQ(rows_of(run, "route"), 0);

  place.complete(GetParam(), "run", longer);
  expect_no_row_twice(run);
  expect_same_run(place.path("straight"), run);

  Outcome const outcome = place.launch(GetParam(), launch({"--redo", "evaluate", "run.time_limit=5"}));
  expect_stopped(outcome, run, "evaluate", "run.time_limit");
  EXPECT_THAT(outcome.err, HasSubstr("\"base\""));  // the first of the models
  EXPECT_FALSE(fs::exists(run + "/evaluate/report.json"));
  place.complete(GetParam(), "run", longer);
  expect_same_run(place.path("straight"), run);
}

TEST(OtherRanks, GoOnFromTheSameFiles) {
  Workplace const place;
  std::string const run = place.path("run");
  place.complete(1, "straight");
  EXPECT_EQ(place.launch(2, place.deck("run", {"run.time_limit=5"})).code, 75);
  EXPECT_EQ(state_steps(run, "pretrain"), std::vector<Index>{1});
  place.complete(1, "run");
  expect_no_row_twice(run);
  auto const straight = metrics_of(place.path("straight")), mixed = metrics_of(run);
  ASSERT_EQ(straight.size(), mixed.size());
  for (std::size_t i = 0; i < 10; ++i) {  // ten steps in fp32, as DESIGN says
    EXPECT_EQ(mixed[i].at("step"), std::to_string(i + 1));
    EXPECT_NEAR(std::stod(mixed[i].at("loss")) / std::stod(straight[i].at("loss")), 1.0, 1e-5)
        << "step " << i + 1;
  }
}

// A kill between the end of a stage and its cleaning.
TEST(Leftovers, OfACompleteStageAreRemoved) {
  Workplace const place;
  place.complete(1, "run");
  std::string const run = place.path("run");
  auto const names = files_of(run);
  for (char const* file : {"pretrain/state-00000015.h5", "prepare/checkpoint_04.h5.partial",
                           "route/state-00000001.h5.partial"}) {
    place.write(std::string("run/") + file, "left");
  }
  place.complete(1, "run");
  EXPECT_EQ(files_of(run), names);
}

/// The process of one rank of a job; 0 if there is none.
pid_t rank_of(Process const& job, int rank) {
  std::string const wanted = std::to_string(rank) + std::string(1, '\0');
  for (pid_t const one : ranks_of(job)) {
    std::string const variables = read_all_text("/proc/" + std::to_string(one) + "/environ");
    for (std::string const name : {"PMIX_RANK=", "PMI_RANK="}) {
      if (variables.find(std::string(1, '\0') + name + wanted) != std::string::npos) return one;
    }
  }
  return 0;
}

TEST(OneRank, LostInAStepEndsTheJobAndTheRunGoesOn) {
  Workplace const place;
  place.complete(2, "straight");
  std::string const run = place.path("run");
  auto const job = place.start(2, place.deck("run"));
  ASSERT_TRUE(wait_until([&] { return rows_of(run, "prepare") >= 4 || !job->running(); }, kPatience, 0.2));
  pid_t const one = rank_of(*job, 1);
  ASSERT_NE(one, 0);
  ::kill(one, SIGKILL);  // as the kernel does where memory runs out
  Outcome const outcome = job->wait(20.0);
  EXPECT_FALSE(outcome.timed_out) << "the other rank waits for ever\n" << outcome.all();
  EXPECT_NE(outcome.code, 0);
  EXPECT_NE(outcome.code, 75);
  expect_no_backtrace(outcome);
  place.complete(2, "run");
  expect_no_row_twice(run);
  expect_same_run(place.path("straight"), run);
}

/// Bytes of address space that a process has.
rlim_t address_space_of(pid_t process) {
  std::istringstream in(read_all_text("/proc/" + std::to_string(process) + "/statm"));
  rlim_t pages = 0;
  in >> pages;
  return pages * static_cast<rlim_t>(::sysconf(_SC_PAGESIZE));
}

TEST(OneRank, WithoutMemoryEndsTheJobInOneLine) {
  Workplace const place;
  std::string const run = place.path("run");
  // Stage 1 needs far more than pre-training did: 64 sequences in a step instead of one, in a wide FFN.
  std::vector<std::string> const wide = {
      "model.ffn=1024",       "pretrain.documents=30",    "pretrain.batch=1", "train.batch=32",
      "train.micro_batch=32", "run.checkpoint_every=100", "data.samples=400", "prepare.epochs=1"};
  auto const job = place.start(2, place.deck("run", wide));
  ASSERT_TRUE(wait_until([&] { return rows_of(run, "pretrain") >= 2 || !job->running(); }, kPatience, 0.2));
  pid_t const one = rank_of(*job, 1);
  ASSERT_NE(one, 0);
  rlim_t const most = address_space_of(one) + (rlim_t{12} << 20);
  rlimit const limit = {most, most};
  ASSERT_EQ(::prlimit(one, RLIMIT_AS, &limit, nullptr), 0);
  expect_one_error(job->wait(30.0), {"rank 1 of 2", "out of memory"});
  EXPECT_TRUE(is_complete(run, "pretrain"));
  place.complete(2, "run", wide);
  expect_no_row_twice(run);
}

TEST(OneRank, ThatCannotOpenFilesEndsTheJobInOneLine) {
  Workplace const place;
  std::string const run = place.path("run");
  auto const job = place.start(2, place.deck("run", {"pretrain.epochs=50"}));
  ASSERT_TRUE(
      wait_until([&] { return !state_steps(run, "pretrain").empty() || !job->running(); }, kPatience, 0.2));
  pid_t const one = rank_of(*job, 1);
  ASSERT_NE(one, 0);
  rlimit const nothing = {3, 3};  // descriptors in use stay
  ASSERT_EQ(::prlimit(one, RLIMIT_NOFILE, &nothing, nullptr), 0);
  expect_one_error(job->wait(30.0), {"pretrain/", "open"});
}

}  // namespace
}  // namespace upit::test
