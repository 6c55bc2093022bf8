// SPDX-License-Identifier: Apache-2.0
// Owns what is said on standard output: lines, a live line, tables, and numbers for people.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include "upit/core/index.hpp"

namespace upit {

/// Columns as wide as their widest cell, the first set left and the others right, a rule under the headers.
class Table {
 public:
  explicit Table(std::vector<std::string> headers);
  /// One cell a header, else a `std::logic_error`.
  void row(std::vector<std::string> cells);
  /// Lines ending in '\n'. Widths count UTF-8 characters.
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;  // the headers first
};

/// One per program, made on every rank; only an active one speaks.
class Console {
 public:
  explicit Console(bool active, std::FILE* out = stdout);
  ~Console();
  Console(Console const&) = delete;
  Console& operator=(Console const&) = delete;

  bool active() const { return active_; }
  /// True if somebody watches: lines can be drawn over.
  bool terminal() const { return terminal_; }

  /// One line, '\n' added; a live line gives way to it.
  void say(std::string const& line);
  /// An optional title, the table and an empty line.
  void say(Table const& table, std::string const& title = "");
  /// On a terminal: draws over the last live line, cut to the width. Elsewhere nothing: see Progress.
  void draw(std::string const& line);
  /// Removes the live line.
  void wipe();

 private:
  std::FILE* out_;
  bool active_;
  bool terminal_ = false;
  int width_ = 80;
  bool drawn_ = false;
};

/// "712 B", "1.5 KiB", "23.0 GiB".
std::string format_bytes(Index bytes);
/// "0.42 s", "12.3 s", "4:05", "1:02:03".
std::string format_duration(double seconds);
/// "1,234,567".
std::string format_count(Index count);

}  // namespace upit
