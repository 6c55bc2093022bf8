// SPDX-License-Identifier: Apache-2.0
// Owns metrics.csv: one row per stage and step, cut back when a run resumes. One rank writes it; no MPI.
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "upit/core/index.hpp"
#include "upit/io/files.hpp"

namespace upit {

/// A CSV file whose header is `stage,step,` and the columns given. Rows are flushed one by one, so a killed
/// job loses at most the row being written, which the next start drops. Numbers are written so that reading
/// gives the same double.
class MetricsFile {
 public:
  using Cell = std::pair<std::string_view, double>;

  /// Creates the file or continues it. Throws `Error` if it cannot be written or its header has other
  /// columns.
  MetricsFile(std::string path, std::vector<std::string> columns);

  /// Adds a row; columns not named stay empty. A stage name holds no comma, quote or line end.
  void append(std::string_view stage, Index step, std::span<Cell const> cells);
  void append(std::string_view stage, Index step, std::initializer_list<Cell> cells) {
    append(stage, step, std::span<Cell const>(cells.begin(), cells.size()));
  }

  /// Drops every row for which `keep(stage, step)` is false. The file is replaced as a whole.
  void cut_back(std::function<bool(std::string_view stage, Index step)> const& keep);
  /// Back to a checkpoint of `stage` after `step`: drops later steps of that stage, rows "stage.part" among
  /// them, and all rows of stages that first appear after it.
  void cut_back(std::string_view stage, Index step);

  /// Puts the rows of `stage` into the order of their steps, in the places that they have together. The file
  /// is replaced as a whole, unless they are in order.
  void sort(std::string_view stage);

  std::string const& path() const { return path_; }

 private:
  std::vector<std::string> rows() const;
  void replace(std::vector<std::string> const& rows);
  void reopen();

  std::string path_;
  std::vector<std::string> columns_;
  std::string header_;
  FileDescriptor file_;
};

}  // namespace upit
