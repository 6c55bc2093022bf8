// SPDX-License-Identifier: Apache-2.0
#include "upit/core/signals.hpp"

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <cmath>
#include <csignal>
#include <limits>
#include <string_view>
#include <vector>

#include "upit/core/error.hpp"

namespace upit {
namespace {

// A handler can reach nothing but globals.
std::sig_atomic_t volatile user_signals = 0;
std::sig_atomic_t volatile terminations = 0;

extern "C" void note_signal(int signal) {
  if (signal != SIGTERM) {
    user_signals = 1;
  } else if (terminations == 0) {
    terminations = 1;
  } else {
    std::signal(SIGTERM, SIG_DFL);
    std::raise(SIGTERM);  // blocked until the handler returns, then final
  }
}

std::optional<double> whole_number(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) return {};
  double value = 0.0;
  auto const [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

std::optional<double> clock_seconds(std::string_view text) {
  std::vector<double> parts;
  while (true) {
    std::size_t const colon = text.find(':');
    auto const part = whole_number(text.substr(0, colon));
    if (!part) return {};
    parts.push_back(*part);
    if (colon == std::string_view::npos) break;
    text.remove_prefix(colon + 1);
  }
  if (parts.size() != 3 || parts[1] >= 60.0 || parts[2] >= 60.0) return {};
  return parts[0] * 3600.0 + parts[1] * 60.0 + parts[2];
}

std::optional<double> plain_seconds(std::string_view text) {
  double value = 0.0;
  auto const [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return {};
  return value;
}

}  // namespace

void install_stop_signals() {
  // The handler needs a stack of its own: in oneDNN's generated sgemm the stack pointer points into the heap,
  // and a signal frame there destroys it (uxlfoundation/oneDNN issue 4845; releases up to 3.11, until pull
  // request 4855). A frame with all registers takes 11 KiB with AMX.
  static std::array<char, std::size_t{64} << 10> handler_stack;
  stack_t stack = {};
  stack.ss_sp = handler_stack.data();
  stack.ss_size = handler_stack.size();
  require(sigaltstack(&stack, nullptr) == 0, "sigaltstack failed: the stop signals cannot be caught");
  struct sigaction action = {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART | SA_ONSTACK;  // reads and writes under way go on
  sigemptyset(&action.sa_mask);
  for (int const signal : {SIGUSR1, SIGTERM}) {
    require(sigaction(signal, &action, nullptr) == 0, "sigaction failed: the stop signals cannot be caught");
  }
}

ThreadsWithoutStopSignals::ThreadsWithoutStopSignals() {
  sigset_t stop;
  sigemptyset(&stop);
  for (int const signal : {SIGUSR1, SIGTERM}) sigaddset(&stop, signal);
  pthread_sigmask(SIG_BLOCK, &stop, &before_);
}
ThreadsWithoutStopSignals::~ThreadsWithoutStopSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

bool stop_requested() { return user_signals != 0 || terminations != 0; }
std::string stop_signal() { return terminations != 0 ? "SIGTERM" : user_signals != 0 ? "SIGUSR1" : ""; }
void clear_stop_request() { user_signals = terminations = 0; }

std::optional<double> parse_time_limit(std::string const& text) {
  auto const seconds = text.find(':') == std::string::npos ? plain_seconds(text) : clock_seconds(text);
  return seconds && *seconds > 0.0 ? seconds : std::nullopt;
}

TimeLimit::TimeLimit(std::string const& text) {
  if (text.empty()) return;
  auto const seconds = parse_time_limit(text);
  if (!seconds) {
    fail(fmt::format(
        "run.time_limit = \"{}\": allowed are \"HH:MM:SS\", a number of seconds above 0, or \"\" for none",
        text));
  }
  seconds_ = *seconds;
}

double TimeLimit::left() const {
  return given() ? seconds_ - since_.seconds() : std::numeric_limits<double>::infinity();
}

}  // namespace upit
