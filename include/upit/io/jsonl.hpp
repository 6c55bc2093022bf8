// SPDX-License-Identifier: Apache-2.0
// Owns reading of lines from a plain or gzip-compressed text file, with line numbers for messages.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "upit/core/index.hpp"

namespace upit {

/// Lines of any length; memory is that of the longest. Compression is told by content, not by name. A
/// byte-order mark at the start and a carriage return at the end of a line are dropped; a last line needs no
/// newline.
class LineReader {
 public:
  /// Throws `Error` with the path if it cannot be read.
  explicit LineReader(std::string path);
  ~LineReader();
  LineReader(LineReader&&) noexcept;
  LineReader& operator=(LineReader&&) noexcept;

  /// The next line without its end, empty lines included; false at the end of the file. Throws `Error` with
  /// file and line for a truncated or damaged gzip file.
  bool next(std::string& line);
  /// Number of the line that `next` gave last, from 1.
  Index number() const { return number_; }
  std::string const& path() const { return path_; }
  /// "path:number", for messages about that line.
  std::string where() const;

 private:
  bool fill();

  std::string path_;
  struct Stream;
  std::unique_ptr<Stream> stream_;
  std::vector<char> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  Index number_ = 0;
};

}  // namespace upit
