// SPDX-License-Identifier: Apache-2.0
// Owns the tests of stop signals and the time limit.
#include "upit/core/signals.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>

#include "upit/core/error.hpp"

namespace {

TEST(StopSignals, LeaveANoteAndNothingElse) {
  upit::install_stop_signals();
  upit::clear_stop_request();
  EXPECT_FALSE(upit::stop_requested());
  EXPECT_EQ(upit::stop_signal(), "");
  std::raise(SIGUSR1);
  EXPECT_TRUE(upit::stop_requested());
  EXPECT_EQ(upit::stop_signal(), "SIGUSR1");
  std::raise(SIGUSR1);  // batch systems repeat themselves
  EXPECT_TRUE(upit::stop_requested());
  upit::clear_stop_request();
  std::raise(SIGTERM);
  EXPECT_EQ(upit::stop_signal(), "SIGTERM");
  upit::clear_stop_request();
  EXPECT_FALSE(upit::stop_requested());
}

TEST(StopSignals, SecondSigtermEndsTheProcess) {
  upit::install_stop_signals();
  upit::clear_stop_request();
  pid_t const child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::raise(SIGTERM);
    std::raise(SIGTERM);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
}

// A batch system that repeats SIGUSR1 must not make two SIGTERM count as one.
TEST(StopSignals, SecondSigtermEndsTheProcessWhateverCameBetween) {
  upit::install_stop_signals();
  upit::clear_stop_request();
  pid_t const child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::raise(SIGTERM);
    std::raise(SIGUSR1);
    if (upit::stop_signal() != "SIGTERM") _exit(1);
    std::raise(SIGTERM);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
}

TEST(TimeLimit, ReadsClockTimeAndSeconds) {
  EXPECT_EQ(upit::TimeLimit("01:02:03").seconds(), 3723.0);
  EXPECT_EQ(upit::TimeLimit("100:00:00").seconds(), 360000.0);
  EXPECT_EQ(upit::TimeLimit("0:00:59").seconds(), 59.0);
  EXPECT_EQ(upit::TimeLimit("90").seconds(), 90.0);
  EXPECT_EQ(upit::TimeLimit("0.5").seconds(), 0.5);
}

TEST(TimeLimit, EmptyMeansNone) {
  upit::TimeLimit const none("");
  EXPECT_FALSE(none.given());
  EXPECT_FALSE(none.reached());
  EXPECT_FALSE(none.reached(1e300));
  EXPECT_TRUE(std::isinf(none.left()));
}

TEST(TimeLimit, RefusesEverythingElseAndNamesIt) {
  for (std::string const text : {"abc", "1:2", "00:60:00", "00:00:60", "1:00:00:00", "-5", "0", "0:0:0",
                                 "10s", " 10", "1:-2:3", "1::3", ":", "inf", "nan", "1e999", "12:00:00 "}) {
    try {
      upit::TimeLimit const limit(text);
      FAIL() << "\"" << text << "\" was read as " << limit.seconds();
    } catch (upit::Error const& e) {
      EXPECT_THAT(e.what(), testing::HasSubstr("\"" + text + "\""));
      EXPECT_THAT(e.what(), testing::HasSubstr("HH:MM:SS"));
    }
  }
}

TEST(TimeLimit, IsReachedOnceItIsOverOrTheReserveIs) {
  upit::TimeLimit const shortest("0.02");
  usleep(30'000);
  EXPECT_TRUE(shortest.reached());
  EXPECT_LT(shortest.left(), 0.0);
  upit::TimeLimit const hour("01:00:00");
  EXPECT_FALSE(hour.reached());
  EXPECT_FALSE(hour.reached(3000.0));
  EXPECT_TRUE(hour.reached(3600.0));
}

}  // namespace
