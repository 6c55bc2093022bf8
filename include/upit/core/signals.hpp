// SPDX-License-Identifier: Apache-2.0
// Owns the reasons to stop early: SIGUSR1, SIGTERM and the time limit.
#pragma once

#include <csignal>
#include <optional>
#include <string>

#include "upit/core/timer.hpp"

namespace upit {

/// From now on SIGUSR1 and SIGTERM only leave a note, which `stop_requested` reads: for who reads it. A
/// second SIGTERM ends the process as usual, for someone who will not wait for a checkpoint. They are handled
/// on a stack that belongs to the calling thread, the one that calls BLAS: see `ThreadsWithoutStopSignals`
/// for the others.
void install_stop_signals();

/// Threads started while this lives leave the stop signals to those that were there before.
class ThreadsWithoutStopSignals {
 public:
  ThreadsWithoutStopSignals();
  ~ThreadsWithoutStopSignals();
  ThreadsWithoutStopSignals(ThreadsWithoutStopSignals const&) = delete;
  ThreadsWithoutStopSignals& operator=(ThreadsWithoutStopSignals const&) = delete;

 private:
  sigset_t before_;
};

/// True once this process has received one of them. Ranks must agree before they act on it.
bool stop_requested();
/// "SIGTERM" once there was one, else "SIGUSR1" or, without a request, "".
std::string stop_signal();
/// Forgets a request, for programs that go on (tests).
void clear_stop_request();

/// Seconds of "HH:MM:SS" or of a number of seconds; nothing if the text is neither, or zero.
std::optional<double> parse_time_limit(std::string const& text);

/// The deck's run.time_limit, counted from construction.
class TimeLimit {
 public:
  /// `text`: "HH:MM:SS", seconds, or empty for none. Throws `Error` for anything else, zero included.
  explicit TimeLimit(std::string const& text);

  bool given() const { return seconds_ > 0.0; }
  /// Seconds allowed in all; 0 without a limit.
  double seconds() const { return seconds_; }
  /// Seconds left, negative when over; infinity without a limit.
  double left() const;
  /// True once fewer than `reserve` seconds are left, e.g. what a checkpoint takes.
  bool reached(double reserve = 0.0) const { return left() <= reserve; }

 private:
  double seconds_ = 0.0;
  Stopwatch since_;
};

}  // namespace upit
