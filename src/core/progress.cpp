// SPDX-License-Identifier: Apache-2.0
#include "upit/core/progress.hpp"

#include <fmt/core.h>

#include <utility>

namespace upit {
namespace {

constexpr double kRedraw = 0.1;  // seconds

}  // namespace

Progress::Progress(Console& console, std::string title, Index total, Index done, double interval)
    : console_(console),
      title_(std::move(title)),
      total_(total),
      first_(done),
      done_(done),
      interval_(interval) {}

Progress::~Progress() {
  try {
    finish();
  } catch (...) {  // a full disk behind standard output must not end the program here
  }
}

std::string Progress::line() const {
  std::string line = fmt::format("{}  {}/{}", title_, format_count(done_), format_count(total_));
  if (total_ > 0) line += fmt::format(" ({} %)", 100 * done_ / total_);
  if (!text_.empty()) line += "  " + text_;
  if (done_ >= total_) {
    line += fmt::format("  in {}", format_duration(since_start_.seconds()));
  } else if (done_ > first_) {
    double const each = since_start_.seconds() / static_cast<double>(done_ - first_);
    line += fmt::format("  {} left", format_duration(each * static_cast<double>(total_ - done_)));
  }
  return line;
}

void Progress::update(Index done, std::string const& text) {
  if (!console_.active()) return;
  done_ = done;
  text_ = text;
  said_ = false;
  double const pause = console_.terminal() ? kRedraw : interval_;
  if (updated_ && since_line_.seconds() < pause) return;
  updated_ = true;
  since_line_.restart();
  if (console_.terminal()) {
    console_.draw(line());
  } else {
    console_.say(line());
    said_ = true;
  }
}

void Progress::finish() {
  if (finished_ || !console_.active()) return;
  finished_ = true;
  if (updated_ && !said_) console_.say(line());
}

}  // namespace upit
