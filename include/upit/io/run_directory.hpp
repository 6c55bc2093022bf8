// SPDX-License-Identifier: Apache-2.0
// Owns the directory of a run: creation, the lock that keeps a second job out, small text files.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "upit/comm/communicator.hpp"
#include "upit/core/index.hpp"
#include "upit/io/files.hpp"

namespace upit {

/// Exclusive use of a directory by one process: flock on the file `upit.lock` in it, which holds pid and
/// host. The kernel drops the lock however the process ends, so a lock file left behind by a kill keeps
/// nobody out.
class DirectoryLock {
 public:
  /// Throws `Error` naming the holder's pid and host if another process, or another lock of this one, has it.
  explicit DirectoryLock(std::string const& directory);

 private:
  FileDescriptor file_;
};

/// Every method with a communicator behind it is collective; errors are agreed. The communicator must outlive
/// it.
class RunDirectory {
 public:
  /// Creates the directory with its parents where missing and locks it until this object goes. Throws
  /// `AgreedError` if that fails, if a rank cannot write there, or if a rank sees another directory of that
  /// name (no shared file system).
  RunDirectory(std::string path, Communicator const& comm);

  std::string const& path() const { return path_; }
  /// `path`/`name`; not collective.
  std::string path(std::string_view name) const;

  /// As rank 0 sees it, on every rank.
  bool exists(std::string_view name) const;
  /// Creates a directory below this one, with parents.
  void make_directory(std::string_view name) const;
  /// Removes a file; nothing happens if there is none.
  void remove(std::string_view name) const;
  /// Rank 0 writes a file that is whole or absent.
  void write_text(std::string_view name, std::string_view text) const;
  /// Rank 0 reads, every rank gets the text. Throws `AgreedError` if there is no such file.
  std::string read_text(std::string_view name) const;
  /// Bytes free for the run.
  Index free_space() const;
  /// Throws `AgreedError` unless `bytes` are free; `what` names what is to be written.
  void require_free_space(Index bytes, std::string_view what) const;

 private:
  std::string path_;
  Communicator const* comm_;
  std::optional<DirectoryLock> lock_;  // rank 0
};

}  // namespace upit
