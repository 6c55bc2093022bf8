// SPDX-License-Identifier: Apache-2.0
// Owns the tests of what the runtime makes of errors that all ranks share, inside a running MPI program.
#include "upit/core/runtime.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>

#include "upit/comm/communicator.hpp"
#include "upit/core/types.hpp"

namespace upit {
namespace {

/// run(body) with what it writes to standard error.
struct Outcome {
  int code;
  std::string text;
};

Outcome outcome_of(std::function<int()> const& body) {
  int argc = 0;
  char** argv = nullptr;
  Runtime runtime(argc, argv);
  testing::internal::CaptureStderr();
  int const code = runtime.run(body);
  return {code, testing::internal::GetCapturedStderr()};
}

TEST(Runtime, PassesTheCodeOn) {
  Outcome const done = outcome_of([] { return 3; });
  EXPECT_EQ(done.code, 3);
  EXPECT_EQ(done.text, "");
}

TEST(Runtime, EndsAnAgreedErrorInOneLineOfRankZeroAndOneEverywhere) {
  auto const comm = Communicator::world();
  bool const last = comm.rank() == comm.size() - 1;
  Outcome const done = outcome_of([&]() -> int {
    comm.agree([&] { require(!last, "model.base: no such file"); });
    return 0;
  });
  EXPECT_EQ(done.code, 1);
  EXPECT_EQ(done.text, comm.root() ? "upit: error: model.base: no such file\n" : "");
}

TEST(Runtime, EndsAStopInOneLineAndSeventyFive) {
  auto const comm = Communicator::world();
  Outcome const done = outcome_of([]() -> int { throw Interrupted("SIGUSR1 at step 7"); });
  EXPECT_EQ(done.code, 75);
  EXPECT_EQ(done.text, comm.root() ? "upit: stopped: SIGUSR1 at step 7\n" : "");
}

TEST(Runtime, EndsAnyErrorOfALoneRankInOneLine) {
  auto const comm = Communicator::world();
  if (comm.size() > 1) GTEST_SKIP() << "with several ranks these end in MPI_Abort";
  EXPECT_EQ(outcome_of([]() -> int { throw Error("bad"); }).text, "upit: error: bad\n");
  EXPECT_EQ(outcome_of([]() -> int { throw std::runtime_error("bad \nTraceback:\n  f()"); }).text,
            "upit: error: bad\n");
  EXPECT_EQ(outcome_of([]() -> int { throw 7; }).text, "upit: error: unknown error\n");
  Outcome const full = outcome_of([]() -> int { throw std::bad_alloc(); });
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.text, testing::StartsWith("upit: error: out of memory"));
  // Kokkos says it in words of its own, with several lines.
  Outcome const view = outcome_of([]() -> int {
    View1<double> const huge("huge", Index{1} << 50);
    return static_cast<int>(huge.extent(0));
  });
  EXPECT_EQ(view.code, 1);
  EXPECT_THAT(view.text, testing::StartsWith("upit: error: "));
  EXPECT_THAT(view.text, testing::HasSubstr("huge"));
  EXPECT_THAT(view.text, testing::HasSubstr("out of memory"));
  EXPECT_EQ(std::count(view.text.begin(), view.text.end(), '\n'), 1) << view.text;
}

TEST(Runtime, DescribesItselfAlikeOnEveryRank) {
  auto const comm = Communicator::world();
  int argc = 0;
  char** argv = nullptr;
  Runtime const runtime(argc, argv);
  EXPECT_GE(runtime.threads(), 1);
  EXPECT_TRUE(comm.same(runtime.description()));
  EXPECT_THAT(runtime.description(), testing::HasSubstr(std::to_string(comm.size()) + " rank"));
}

}  // namespace
}  // namespace upit
