// SPDX-License-Identifier: Apache-2.0
// Owns plain files: whole-or-absent writing, reading text, free space. One rank each, no MPI.
#pragma once

#include <string>
#include <string_view>

#include "upit/core/index.hpp"

namespace upit {

/// The name under which `path` is written until it is whole.
std::string temporary_name(std::string const& path);

/// Makes a written file take its final name: syncs it, renames it, syncs its directory, so that after a power
/// cut the final name holds either the old file or the whole new one. Throws `Error` with both names and the
/// reason; the final name is then untouched.
void commit_file(std::string const& temporary, std::string const& final_name);

/// Bytes an ordinary user can still write below `path`, which must exist. Throws `Error` if it does not.
Index free_space(std::string const& path);

/// Throws `Error` unless `bytes` fit on the file system of `path`; `what` names what is to be written.
void require_free_space(std::string const& path, Index bytes, std::string_view what);

/// Writes a file that is whole or absent. Throws `Error`.
void write_text_file(std::string const& path, std::string_view text);

/// The bytes of a file. Throws `Error` if it cannot be read.
std::string read_text_file(std::string const& path);

/// A POSIX descriptor, closed when it goes; never inherited by a program that we start.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  /// Opens `path`. Throws `Error` with the path and the reason.
  FileDescriptor(std::string const& path, int flags, int mode = 0644);
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  int get() const { return descriptor_; }
  /// Closes now. Throws `Error`: some file systems report a failed write only here.
  void close();

 private:
  int descriptor_ = -1;
  std::string path_;
};

/// Writes all bytes at the descriptor's position. Throws `Error` naming `path`.
void write_all(FileDescriptor const& file, std::string_view bytes, std::string const& path);

}  // namespace upit
