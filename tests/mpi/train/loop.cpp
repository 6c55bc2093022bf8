// SPDX-License-Identifier: Apache-2.0
// Owns the check that a stage stopped or killed and resumed ends bit for bit where a straight one does.
#include "upit/train/loop.hpp"

#include <cmath>

#include "mpi/io/shared_scratch.hpp"
#include "support/training_loop.hpp"

namespace upit::test {
namespace {

std::vector<TrainingCase> resumed_cases() {
  std::vector<TrainingCase> list;
  for (auto const& c : training_cases()) {
    if (c.auxiliary_share == 0.0) list.push_back(c);  // stage 3 has a loop of its own
  }
  for (auto const& c : bf16_cases()) {
    if (c.auxiliary_share == 0.0) list.push_back(c);
  }
  return list;
}

class Resume : public ::testing::TestWithParam<TrainingCase> {};

void expect_same(LoopOutcome const& found, LoopOutcome const& expected) {
  EXPECT_EQ(found.loss, expected.loss);
  EXPECT_EQ(found.weights, expected.weights);
  EXPECT_EQ(found.first_moment, expected.first_moment);
  EXPECT_EQ(found.second_moment, expected.second_moment);
}

TEST_P(Resume, StoppedAndResumedEqualsStraight) {
  Communicator const world = Communicator::world();
  SharedScratch const a(world), b(world);
  LoopOutcome const straight = run_loop(world, GetParam(), {.directory = a.path("")});
  EXPECT_EQ(straight.steps_run, 8);
  LoopCase stopped{.directory = b.path("")};
  for (Index const at : {3, 6}) {
    stopped.stop_after = at;
    EXPECT_THROW(run_loop(world, GetParam(), stopped), Interrupted);
    EXPECT_EQ(newest_state(b.path(""), world), at);
  }
  stopped.stop_after = -1;
  LoopOutcome const resumed = run_loop(world, GetParam(), stopped);
  EXPECT_EQ(resumed.steps_run, 2);
  expect_same(resumed, straight);
}

TEST_P(Resume, KilledBetweenStatesEqualsStraight) {
  Communicator const world = Communicator::world();
  SharedScratch const a(world), b(world);
  LoopOutcome const straight = run_loop(world, GetParam(), {.directory = a.path(""), .checkpoint_every = 2});
  LoopCase killed{.directory = b.path(""), .checkpoint_every = 2};
  killed.after_step = [](Index step, Trainer<float>&) {
    if (step == 5) throw Killed();
  };
  EXPECT_THROW(run_loop(world, GetParam(), killed), Killed);
  EXPECT_EQ(newest_state(b.path(""), world), 4);
  killed.after_step = nullptr;
  LoopOutcome const resumed = run_loop(world, GetParam(), killed);
  EXPECT_EQ(resumed.steps_run, 4);
  expect_same(resumed, straight);
}

INSTANTIATE_TEST_SUITE_P(Cases, Resume, ::testing::ValuesIn(resumed_cases()),
                         [](auto const& info) { return info.param.name; });

TEST(Loop, ANonFiniteLossIsAgreedAndNamesStepAndState) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  LoopCase broken{.directory = scratch.path(""), .checkpoint_every = 2};
  // On the last rank only: the sum over ranks must tell all.
  broken.after_step = [&](Index step, Trainer<float>& trainer) {
    if (step != 3 || world.rank() != world.size() - 1) return;
    Kokkos::deep_copy(trainer.weights().backbone, std::nanf(""));
  };
  auto const c = training_cases()[0];  // one micro-step of six sequences: every rank has some
  ASSERT_EQ(c.name, "dense");
  expect_agreed(world, [&] { run_loop(world, c, broken); },
                {"stage", "not finite", "step 4", "state after step 2"});
  EXPECT_EQ(newest_state(scratch.path(""), world), 2);
  // The state kept is good: the same command without the fault goes on to the end.
  broken.after_step = nullptr;
  EXPECT_TRUE(std::isfinite(run_loop(world, c, broken).loss));
}

}  // namespace
}  // namespace upit::test
