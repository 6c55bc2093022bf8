// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the console, the progress line and the formats.
#include "upit/core/console.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>

#include "upit/core/progress.hpp"

namespace {

using testing::HasSubstr;
using testing::Not;

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

std::string contents(std::FILE* file) {
  std::string text;
  std::rewind(file);
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) text += static_cast<char>(c);
  return text;
}

TEST(Table, AlignsColumnsByCharacters) {
  upit::Table table({"expert", "share"});
  table.row({"über", "0.125"});
  table.row({"a", "12.5"});
  EXPECT_EQ(table.text(),
            "expert  share\n"
            "-------------\n"
            "über    0.125\n"
            "a        12.5\n");
  EXPECT_THROW(table.row({"one cell"}), std::logic_error);
}

TEST(Console, SaysNothingUnlessActive) {
  File const file(std::tmpfile());
  {
    upit::Console console(false, file.get());
    console.say("silence");
    console.draw("silence");
    upit::Progress progress(console, "prepare", 10);
    progress.update(10);
  }
  EXPECT_EQ(contents(file.get()), "");
}

TEST(Console, WritesPlainLinesIntoALog) {
  File const file(std::tmpfile());
  {
    upit::Console console(true, file.get());
    EXPECT_FALSE(console.terminal());
    console.say("first");
    console.draw("a live line");
    console.say("second");
  }
  EXPECT_EQ(contents(file.get()), "first\nsecond\n");
}

TEST(Progress, SaysInALogTheFirstAndTheLastLineAndFewBetween) {
  File const file(std::tmpfile());
  {
    upit::Console console(true, file.get());
    upit::Progress progress(console, "route", 1000, 0, 3600.0);
    for (int i = 1; i <= 1000; ++i) progress.update(i, "loss 1.25");
    progress.finish();
    progress.finish();
  }
  std::string const text = contents(file.get());
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_THAT(text, HasSubstr("route  1/1,000 (0 %)  loss 1.25"));
  EXPECT_THAT(text, HasSubstr("route  1,000/1,000 (100 %)  loss 1.25  in "));
  EXPECT_THAT(text, Not(HasSubstr("\r")));
}

TEST(Progress, CountsTheTimeLeftFromWhatWasDoneHere) {
  File const file(std::tmpfile());
  upit::Console console(true, file.get());
  upit::Progress progress(console, "prepare", 200, 100, 3600.0);
  progress.update(100);
  EXPECT_THAT(progress.line(), Not(HasSubstr("left")));
  usleep(50'000);
  progress.update(150);
  // 50 units took a little more than 0.05 s; 50 are left. Counted from zero it would be a third of that.
  std::string const line = progress.line();
  ASSERT_THAT(line, HasSubstr(" left"));
  double const left = std::stod(line.substr(line.find(')') + 1));
  EXPECT_GE(left, 0.05);
}

TEST(Progress, DrawsOverItselfOnATerminal) {
  int const master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0) GTEST_SKIP() << "this machine gives no pseudo-terminal";
  ASSERT_EQ(grantpt(master), 0);
  ASSERT_EQ(unlockpt(master), 0);
  int const slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  ASSERT_GE(slave, 0);
  struct winsize size = {};
  size.ws_col = 30;
  size.ws_row = 10;
  ASSERT_EQ(ioctl(slave, TIOCSWINSZ, &size), 0);
  unsetenv("TERM");
  File const file(fdopen(slave, "w"));
  {
    upit::Console console(true, file.get());
    ASSERT_TRUE(console.terminal());
    upit::Progress progress(console, "expand", 4);
    progress.update(1, "a text that is longer than the terminal is wide");
    console.say("a line");
  }
  // The terminal hands over in pieces; the last line tells that all has come.
  std::string text;
  std::array<char, 4096> piece{};
  while (!text.ends_with("wide\r\n")) {
    struct pollfd waiting = {master, POLLIN, 0};
    if (poll(&waiting, 1, 5000) <= 0) break;
    ssize_t const count = read(master, piece.data(), piece.size());
    if (count <= 0) break;
    text.append(piece.data(), static_cast<std::size_t>(count));
  }
  close(master);
  std::string const first = text.substr(0, text.find("\x1b[K"));
  EXPECT_EQ(first, "\rexpand  1/4 (25 %)  a text th");  // 29 of 30 columns
  EXPECT_THAT(text, HasSubstr("\r\x1b[Ka line"));
  EXPECT_THAT(text, HasSubstr("longer than the terminal is wide"));  // the last line is whole
}

TEST(Formats, AreForPeople) {
  EXPECT_EQ(upit::format_bytes(0), "0 B");
  EXPECT_EQ(upit::format_bytes(1023), "1023 B");
  EXPECT_EQ(upit::format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(upit::format_bytes((upit::Index{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(upit::format_bytes(upit::Index{23} << 30), "23.0 GiB");
  EXPECT_EQ(upit::format_duration(0.421), "0.42 s");
  EXPECT_EQ(upit::format_duration(12.34), "12.3 s");
  EXPECT_EQ(upit::format_duration(59.97), "1:00");
  EXPECT_EQ(upit::format_duration(245.0), "4:05");
  EXPECT_EQ(upit::format_duration(3599.7), "1:00:00");
  EXPECT_EQ(upit::format_duration(3723.0), "1:02:03");
  EXPECT_EQ(upit::format_duration(-1.0), "?");
  EXPECT_EQ(upit::format_count(0), "0");
  EXPECT_EQ(upit::format_count(999), "999");
  EXPECT_EQ(upit::format_count(1000), "1,000");
  EXPECT_EQ(upit::format_count(-1234567), "-1,234,567");
  EXPECT_EQ(upit::format_count(-123), "-123");
}

}  // namespace
