// SPDX-License-Identifier: Apache-2.0
// Owns the tests of a stage's record: what is taken up, what is refused, what --redo removes.
#include "upit/upcycle/stage.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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
  void put(std::string const& file) {
    world_.barrier();
    if (world_.root()) {
      fs::create_directories(fs::path(deck_.run.directory + "/" + file).parent_path());
      std::ofstream(deck_.run.directory + "/" + file) << "x";
    }
    world_.barrier();
  }
  bool there(std::string const& file) {
    world_.barrier();
    return fs::exists(deck_.run.directory + "/" + file);
  }

  Communicator world_ = Communicator::world();
  Console console_{false};
  Deck deck_;
};

TEST_F(StageRecord, FilesWithoutARecordAreNotTakenUp) {
  put("prepare/state-00000112.h5");
  upcycle::Run run(deck_, world_, console_, {});
  Stage stage(run, "prepare", "a = 1\n");
  EXPECT_FALSE(stage.begun());
  stage.begin();
  EXPECT_FALSE(there("prepare/state-00000112.h5"));
  EXPECT_TRUE(there("prepare/stage.txt"));
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
  try {
    Stage const stage(run, "prepare", "[prepare]\nepochs = 3\n");
    FAIL() << "accepted";
  } catch (AgreedError const& error) {
    EXPECT_NE(std::string(error.what()).find("prepare.epochs: was 2, is 3"), std::string::npos)
        << error.what();
  }
}

TEST_F(StageRecord, RedoRemovesTheStageAndAllAfterItAtOnce) {
  upcycle::Run run(deck_, world_, console_, {});
  for (char const* name : {"prepare", "expand", "route", "evaluate"}) {
    Stage stage(run, name, "a = 1\n");
    stage.begin();
    stage.finish("done");
  }
  redo_stages(run, "expand");
  EXPECT_TRUE(there("prepare/stage.txt"));
  EXPECT_FALSE(there("expand"));
  EXPECT_FALSE(there("route"));
  EXPECT_FALSE(there("evaluate"))
      << "a kill in the stage done again must not leave old results that look complete";
  EXPECT_THROW(redo_stages(run, "cook"), AgreedError);
}

}  // namespace
}  // namespace upit::upcycle
