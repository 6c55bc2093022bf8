// SPDX-License-Identifier: Apache-2.0
#include "upit/core/console.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "upit/core/error.hpp"

namespace upit {
namespace {

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xC0U) == 0x80U; }

Index characters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return !continues_character(c); });
}

std::string first_characters(std::string const& text, Index n) {
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    if (!continues_character(text[i]) && n-- == 0) break;
  }
  return text.substr(0, i);
}

/// Columns of the terminal behind a descriptor; 0 if it is no terminal or does not say.
int columns(int descriptor) {
  struct winsize size = {};
  if (isatty(descriptor) == 0 || ioctl(descriptor, TIOCGWINSZ, &size) != 0) return 0;
  return size.ws_col;
}

/// Columns of the terminal somebody looks at; 0 for a log. Open MPI's mpirun hands every rank a
/// pseudo-terminal without a size even if its own output goes to a file, so there its own output decides.
int watched_columns(std::FILE* out) {
  char const* const kind = std::getenv("TERM");
  if (kind != nullptr && std::string_view(kind) == "dumb") return 0;
  int const descriptor = fileno(out);
  if (isatty(descriptor) == 0) return 0;
  if (int const width = columns(descriptor); width > 0) return width;
  int const parent = open(fmt::format("/proc/{}/fd/1", getppid()).c_str(), O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (parent < 0) return 0;
  bool const watched = isatty(parent) != 0;
  int const width = columns(parent);
  close(parent);
  if (!watched) return 0;
  return width > 0 ? width : 80;
}

}  // namespace

Table::Table(std::vector<std::string> headers) { rows_.push_back(std::move(headers)); }

void Table::row(std::vector<std::string> cells) {
  expect(cells.size() == rows_.front().size(), "a row has one cell for every header");
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<Index> width(rows_.front().size(), 0);
  for (auto const& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], characters(row[c]));
  }
  std::string text;
  Index total = 0;
  for (Index const w : width) total += w + 2;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < width.size(); ++c) {
      std::string const& cell = rows_[r][c];
      std::string const blank(static_cast<std::size_t>(width[c] - characters(cell)), ' ');
      if (c > 0) line += "  ";
      line += c == 0 ? cell + blank : blank + cell;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
    if (r == 0) text += std::string(static_cast<std::size_t>(std::max(Index{0}, total - 2)), '-') + '\n';
  }
  return text;
}

Console::Console(bool active, std::FILE* out) : out_(out), active_(active) {
  if (!active_) return;
  int const width = watched_columns(out);
  terminal_ = width > 0;
  if (terminal_) width_ = width;
}

Console::~Console() { wipe(); }

void Console::say(std::string const& line) {
  if (!active_) return;
  wipe();
  fmt::print(out_, "{}\n", line);
  std::fflush(out_);  // a batch log is read while it grows
}

void Console::say(Table const& table, std::string const& title) {
  say(title.empty() ? table.text() : title + '\n' + table.text());
}

void Console::draw(std::string const& line) {
  if (!terminal_) return;
  // The last column stays free: a full line would wrap, and a carriage return comes back one line only.
  std::string const text = first_characters(line, std::max(1, width_ - 1));
  std::string const drawn = "\r" + text + "\x1b[K";
  std::fputs(drawn.c_str(), out_);
  std::fflush(out_);
  drawn_ = true;
}

void Console::wipe() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  drawn_ = false;
}

std::string format_bytes(Index bytes) {
  static constexpr std::array<char const*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {  // would be printed as 1024.0
    value /= 1024.0;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0.0) return "?";
  if (seconds < 0.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  Index const s = std::llround(std::min(seconds, 1e15));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string format_count(Index count) {
  std::string text = fmt::format("{}", count);
  std::size_t const first = count < 0 ? 1 : 0;
  for (std::size_t i = text.size(); i > first + 3;) {
    i -= 3;
    text.insert(i, 1, ',');
  }
  return text;
}

}  // namespace upit
