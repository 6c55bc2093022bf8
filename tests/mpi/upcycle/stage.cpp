// SPDX-License-Identifier: Apache-2.0
// Owns the tests of a stage's record: what is taken up, what is refused, what --redo removes.
#include "upit/upcycle/stage.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

namespace upit::upcycle {
namespace {

namespace fs = std::filesystem;

class StageRecord : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / ("upit-stage-" + std::to_string(getpid()))).string();
    world_.broadcast(name);
    deck_.run.directory = name;
    deck_.data.samples = 60;
  }
  void TearDown() override {
    world_.barrier();
    if (world_.root()) fs::remove_all(deck_.run.directory);
    world_.barrier();
  }
  void put(std::string const& file, std::string const& text = "x") {
    world_.barrier();
    if (world_.root()) {
      fs::create_directories(fs::path(deck_.run.directory + "/" + file).parent_path());
      std::ofstream(deck_.run.directory + "/" + file) << text;
    }
    world_.barrier();
  }
  bool there(std::string const& file) {
    world_.barrier();
    return fs::exists(deck_.run.directory + "/" + file);
  }

  void expect_refused(std::function<void()> const& work, std::string const& part) {
    try {
      work();
      ADD_FAILURE() << "accepted; wanted: " << part;
    } catch (AgreedError const& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }

  Communicator world_ = Communicator::world();
  Console console_{false};
  Deck deck_;
};

TEST_F(StageRecord, FilesWithoutARecordAreRefusedAndKept) {
  put("prepare/state-00000112.h5");
  put("expand/stage.txt");  // a record of something else is none
  {
    upcycle::Run run(deck_, world_, console_, {});
    expect_refused([&] { check_run_directory(run); }, "/prepare holds state-00000112.h5");
    expect_refused([&] { Stage const stage(run, "prepare", "a = 1\n"); }, "/prepare holds state-00000112.h5");
    expect_refused([&] { Stage const stage(run, "expand", "a = 1\n"); }, "/expand holds stage.txt");
  }
  upcycle::Run run(deck_, world_, console_, {.redo = "prepare"});
  expect_refused([&] { Stage const stage(run, "prepare", "a = 1\n"); }, "/expand holds stage.txt");
  EXPECT_TRUE(there("prepare/state-00000112.h5"));
  EXPECT_TRUE(there("expand/stage.txt"));
}

TEST_F(StageRecord, ADeckOfOthersIsNotReplaced) {
  put("deck.toml");
  upcycle::Run run(deck_, world_, console_, {});
  expect_refused([&] { check_run_directory(run); }, "/deck.toml was not written by a run");
}

TEST_F(StageRecord, WhatAKillLeavesOfABeginningOrARemovalIsOurs) {
  put("expand/stage.txt.partial");  // while the record was written
  put("route/stage.txt", "removed\n");
  put("route/expert_00.h5");
  upcycle::Run run(deck_, world_, console_, {});
  check_run_directory(run);
  for (std::string const name : {"expand", "route"}) {
    Stage stage(run, name, "a = 1\n");
    EXPECT_FALSE(stage.begun());
    stage.begin();
    EXPECT_TRUE(there(name + "/stage.txt"));
    EXPECT_TRUE(Stage(run, name, "a = 1\n").begun());
  }
  EXPECT_FALSE(there("expand/stage.txt.partial"));
  EXPECT_FALSE(there("route/expert_00.h5"));
}

TEST_F(StageRecord, AStageThatWasBegunKeepsItsFiles) {
  {
    upcycle::Run run(deck_, world_, console_, {});
    Stage(run, "prepare", "a = 1\n").begin();
  }
  put("prepare/state-00000112.h5");
  upcycle::Run run(deck_, world_, console_, {});
  Stage stage(run, "prepare", "a = 1\n");
  EXPECT_TRUE(stage.begun());
  EXPECT_FALSE(stage.complete());
  stage.begin();
  EXPECT_TRUE(there("prepare/state-00000112.h5"));
  stage.finish("done");
  EXPECT_FALSE(there("prepare/state-00000112.h5")) << "restart states of a complete stage only take room";
  EXPECT_TRUE(Stage(run, "prepare", "a = 1\n").complete());
}

TEST_F(StageRecord, OtherInputsAreRefusedAndTheKeyIsNamed) {
  upcycle::Run run(deck_, world_, console_, {});
  Stage(run, "prepare", "[prepare]\nepochs = 2\n").begin();
  expect_refused([&] { Stage const stage(run, "prepare", "[prepare]\nepochs = 3\n"); },
                 "prepare.epochs: was 2, is 3");
}

TEST_F(StageRecord, RedoRemovesTheStageAndAllAfterItOnceItIsReached) {
  {
    upcycle::Run run(deck_, world_, console_, {});
    for (char const* name : {"prepare", "expand", "route", "evaluate"}) {
      Stage stage(run, name, "a = 1\n");
      stage.begin();
      stage.finish("done");
    }
  }
  {
    upcycle::Run run(deck_, world_, console_, {.redo = "cook"});
    expect_refused([&] { check_run_directory(run); }, "--redo cook: there is no such stage");
  }
  {
    upcycle::Run run(deck_, world_, console_, {.redo = "expand"});
    expect_refused([&] { Stage const stage(run, "prepare", "a = 2\n"); }, "was run with other settings");
    EXPECT_TRUE(there("expand/stage.txt")) << "a launch that is refused removes nothing";
    EXPECT_TRUE(there("evaluate/stage.txt"));
  }
  upcycle::Run run(deck_, world_, console_, {.redo = "expand"});
  EXPECT_TRUE(Stage(run, "prepare", "a = 1\n").complete());
  EXPECT_TRUE(there("expand/stage.txt"));
  Stage expand(run, "expand", "a = 2\n");
  EXPECT_FALSE(expand.begun());
  EXPECT_TRUE(there("prepare/stage.txt"));
  EXPECT_FALSE(there("expand"));
  EXPECT_FALSE(there("route"));
  EXPECT_FALSE(there("evaluate"))
      << "a kill in the stage done again must not leave old results that look complete";
  expand.begin();
  EXPECT_TRUE(Stage(run, "expand", "a = 2\n").begun()) << "once is enough";
}

// Stage 3 is left out where route.data is "none".
TEST_F(StageRecord, RedoOfAStageThatIsLeftOutBeginsWithTheNext) {
  {
    upcycle::Run run(deck_, world_, console_, {});
    for (char const* name : {"expand", "upcycle"}) {
      Stage stage(run, name, "a = 1\n");
      stage.begin();
      stage.finish("done");
    }
  }
  upcycle::Run run(deck_, world_, console_, {.redo = "route"});
  EXPECT_TRUE(Stage(run, "expand", "a = 1\n").complete());
  EXPECT_FALSE(Stage(run, "upcycle", "a = 1\n").complete());
}

}  // namespace
}  // namespace upit::upcycle
