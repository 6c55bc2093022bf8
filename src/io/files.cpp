// SPDX-License-Identifier: Apache-2.0
#include "upit/io/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "upit/core/error.hpp"

namespace upit {

namespace {

[[noreturn]] void fail_errno(std::string const& path, char const* doing) {
  int const code = errno;
  fail(fmt::format("{}: cannot {}: {}", path, doing, std::strerror(code)));
}

// The file system takes no fsync on a directory (EINVAL): then the rename is as durable as it can be made.
void sync_directory(std::string const& directory) {
  FileDescriptor const folder(directory, O_RDONLY | O_DIRECTORY);
  if (::fsync(folder.get()) != 0 && errno != EINVAL) fail_errno(directory, "sync the directory");
}

}  // namespace

FileDescriptor::FileDescriptor(std::string const& path, int flags, int mode) : path_(path) {
  do {
    descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail_errno(path, (flags & O_ACCMODE) == O_RDONLY ? "open" : "open for writing");
}

FileDescriptor::~FileDescriptor() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

void FileDescriptor::close() {
  int const descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0 && errno != EINTR) fail_errno(path_, "close");
}

void write_all(FileDescriptor const& file, std::string_view bytes, std::string const& path) {
  while (!bytes.empty()) {
    ssize_t const written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_errno(path, "write");
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::string temporary_name(std::string const& path) { return path + ".partial"; }

void commit_file(std::string const& temporary, std::string const& final_name) {
  FileDescriptor file(temporary, O_RDONLY);
  if (::fsync(file.get()) != 0) fail_errno(temporary, "sync");
  file.close();
  if (std::rename(temporary.c_str(), final_name.c_str()) != 0) {
    int const code = errno;
    fail(fmt::format("{}: cannot rename to {}: {}", temporary, final_name, std::strerror(code)));
  }
  auto const parent = std::filesystem::path(final_name).parent_path().string();
  sync_directory(parent.empty() ? "." : parent);
}

Index free_space(std::string const& path) {
  struct statvfs status {};
  if (::statvfs(path.c_str(), &status) != 0) fail_errno(path, "look at the free space");
  return static_cast<Index>(status.f_bavail) * static_cast<Index>(status.f_frsize);
}

void require_free_space(std::string const& path, Index bytes, std::string_view what) {
  Index const free = free_space(path);
  if (free >= bytes) return;
  fail(fmt::format("{}: {} needs {:.3f} GB of disk, {:.3f} GB are free", path, what,
                   static_cast<double>(bytes) * 1e-9, static_cast<double>(free) * 1e-9));
}

void write_text_file(std::string const& path, std::string_view text) {
  std::string const temporary = temporary_name(path);
  FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
  try {
    write_all(file, text, temporary);
    file.close();
    commit_file(temporary, path);
  } catch (Error const&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

std::string read_text_file(std::string const& path) {
  FileDescriptor const file(path, O_RDONLY);
  std::string text;
  char buffer[1 << 16];
  while (true) {
    ssize_t const count = ::read(file.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_errno(path, "read");
    if (count == 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
  }
}

}  // namespace upit
