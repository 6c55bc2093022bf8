// SPDX-License-Identifier: Apache-2.0
// Owns tests of the run directory of several ranks.
#include "upit/io/run_directory.hpp"

#include "shared_scratch.hpp"

using namespace upit;
using upit::test::expect_agreed;
using upit::test::SharedScratch;

TEST(RunDirectoryMpi, OneJobAtATime) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  std::string const path = s.path("run/below");
  {
    RunDirectory const run(path, world);
    expect_agreed(world, [&] { RunDirectory const second(path, world); }, {path, "another job", "process "});
    run.write_text("a.txt", "from rank 0");
    EXPECT_EQ(run.read_text("a.txt"), "from rank 0");
    EXPECT_TRUE(run.exists("a.txt"));
    EXPECT_FALSE(run.exists("b.txt"));
    Index const free = run.free_space();
    EXPECT_EQ(world.min(free), world.max(free));
    expect_agreed(world, [&] { run.read_text("b.txt"); }, {path + "/b.txt", "No such file"});
    expect_agreed(world, [&] { run.require_free_space(Index{1} << 62, "a checkpoint"); },
                  {path, "a checkpoint"});
    expect_agreed(world, [&] { run.write_text("no/such/c.txt", ""); }, {path + "/no/such/c.txt"});
    world.barrier();
  }
  world.barrier();
  RunDirectory const again(path, world);
  EXPECT_EQ(again.read_text("a.txt"), "from rank 0");
}

TEST(RunDirectoryMpi, ImpossiblePlace) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  std::string const file = s.write("file", "x");
  expect_agreed(world, [&] { RunDirectory const run(file + "/run", world); },
                {file + "/run", "cannot create"});
}
