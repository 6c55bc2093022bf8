// SPDX-License-Identifier: Apache-2.0
// Owns tests of the run directory and its lock.
#include "upit/io/run_directory.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "scratch.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;

TEST(DirectoryLock, SecondHolderIsToldOfTheFirst) {
  Scratch const s;
  {
    DirectoryLock const lock(s.path());
    expect_error([&] { DirectoryLock const second(s.path()); },
                 {s.path(), "another job", "process " + std::to_string(::getpid()) + " on "});
  }
  EXPECT_NO_THROW(DirectoryLock(s.path()));
}

TEST(DirectoryLock, KilledHolderLeavesNoLock) {
  Scratch const s;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  pid_t const child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    DirectoryLock const lock(s.path());
    char const c = 'x';
    if (::write(ready[1], &c, 1) != 1) ::_exit(1);
    while (true) ::pause();
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  expect_error([&] { DirectoryLock const lock(s.path()); }, {"process " + std::to_string(child) + " on "});
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_NO_THROW(DirectoryLock(s.path()));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(RunDirectory, CreatesWithParentsAndKeepsFiles) {
  Scratch const s;
  Communicator const world = Communicator::world();
  RunDirectory const run(s.path("a/b"), world);
  EXPECT_EQ(run.path("x"), s.path("a/b/x"));
  EXPECT_FALSE(run.exists("x/y.txt"));
  run.make_directory("x");
  run.write_text("x/y.txt", "hello\n");
  EXPECT_TRUE(run.exists("x/y.txt"));
  EXPECT_EQ(run.read_text("x/y.txt"), "hello\n");
  run.remove("x/y.txt");
  run.remove("x/y.txt");
  EXPECT_FALSE(run.exists("x/y.txt"));
  expect_error([&] { run.read_text("x/y.txt"); }, {s.path("a/b/x/y.txt"), "No such file"});
  EXPECT_GT(run.free_space(), 0);
  expect_error([&] { run.require_free_space(Index{1} << 62, "a checkpoint"); },
               {"a checkpoint", s.path("a/b")});
  EXPECT_THROW(RunDirectory(s.path("a/b"), world), AgreedError);
}

TEST(RunDirectory, ImpossiblePlaces) {
  Scratch const s;
  Communicator const world = Communicator::world();
  s.write("file", "x");
  expect_error([&] { RunDirectory const run(s.path("file/run"), world); },
               {s.path("file/run"), "cannot create"});
  expect_error([&] { RunDirectory const run(s.path("file"), world); }, {s.path("file")});
  // Not even root may make files there.
  if (std::filesystem::exists("/proc/self/fd")) {
    expect_error([&] { RunDirectory const run("/proc/self/fd", world); },
                 {"/proc/self/fd", "upit.lock", "for writing"});
  }
}

TEST(RunDirectory, Unwritable) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  Scratch const s;
  Communicator const world = Communicator::world();
  std::filesystem::create_directory(s.path("run"));
  std::filesystem::permissions(s.path("run"),
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  expect_error([&] { RunDirectory const run(s.path("run"), world); }, {s.path("run"), "cannot write"});
}
