// SPDX-License-Identifier: Apache-2.0
// Owns the line that says how far a stage is.
#pragma once

#include <string>

#include "upit/core/console.hpp"
#include "upit/core/timer.hpp"

namespace upit {

/// On a terminal a live line, drawn at most ten times a second; in a log a plain line at most every
/// `interval` seconds, the first and the last always. Silent with an inactive console (ranks other than 0).
class Progress {
 public:
  /// `total` units of work, of which `done` were there before (a resumed stage): the time left counts only
  /// what is done from now on.
  Progress(Console& console, std::string title, Index total, Index done = 0, double interval = 5.0);
  ~Progress();
  Progress(Progress const&) = delete;
  Progress& operator=(Progress const&) = delete;

  /// `text`: what the caller knows, e.g. loss and tokens/s.
  void update(Index done, std::string const& text = "");
  /// Leaves the last line standing. The destructor does it too.
  void finish();

  /// "title  120/400 (30 %)  text  2:10 left".
  std::string line() const;

 private:
  Console& console_;
  std::string title_;
  Index total_;
  Index first_;
  Index done_;
  double interval_;
  std::string text_;
  Stopwatch since_start_;
  Stopwatch since_line_;
  bool updated_ = false;
  bool said_ = false;  // the newest line has been printed
  bool finished_ = false;
};

}  // namespace upit
