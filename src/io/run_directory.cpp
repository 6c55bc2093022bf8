// SPDX-License-Identifier: Apache-2.0
#include "upit/io/run_directory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "upit/core/error.hpp"

namespace upit {

namespace {

constexpr char const* kLockName = "upit.lock";

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

std::string one_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

std::string join(std::string const& directory, std::string_view name) {
  return (std::filesystem::path(directory) / name).string();
}

}  // namespace

DirectoryLock::DirectoryLock(std::string const& directory) {
  std::string const path = join(directory, kLockName);
  file_ = FileDescriptor(path, O_RDWR | O_CREAT);
  int status = 0;
  do {
    status = ::flock(file_.get(), LOCK_EX | LOCK_NB);
  } while (status != 0 && errno == EINTR);
  if (status != 0 && errno == EWOULDBLOCK) {
    std::string const holder = one_line(read_text_file(path));
    fail(fmt::format("{}: another job uses this directory: {}", directory,
                     holder.empty() ? "it has not yet written its process id" : holder));
  }
  if (status != 0) {
    fail(fmt::format("{}: cannot lock: {}; the file system must support flock", path, std::strerror(errno)));
  }
  if (::ftruncate(file_.get(), 0) != 0) fail(fmt::format("{}: cannot write: {}", path, std::strerror(errno)));
  write_all(file_, fmt::format("process {} on {}\n", ::getpid(), host_name()), path);
}

RunDirectory::RunDirectory(std::string path, Communicator const& comm)
    : path_(std::move(path)), comm_(&comm) {
  comm_->agree_on_root([&] {
    std::error_code error;
    std::filesystem::create_directories(path_, error);
    require(!error, fmt::format("{}: cannot create the run directory: {}", path_, error.message()));
    require(::access(path_.c_str(), W_OK | X_OK) == 0,
            fmt::format("{}: cannot write to the run directory: {}", path_, std::strerror(errno)));
    lock_.emplace(path_);
  });
  // The lock file's text was written by rank 0 a moment ago: who reads another one sits on another disk.
  std::string const token = read_text(kLockName);
  comm_->agree([&] {
    require(::access(path_.c_str(), W_OK | X_OK) == 0,
            fmt::format("{}: rank {} on {} cannot write to the run directory: {}", path_, comm_->rank(),
                        host_name(), std::strerror(errno)));
    std::string const lock = join(path_, kLockName);
    require(
        ::access(lock.c_str(), R_OK) == 0 && read_text_file(lock) == token,
        fmt::format("{}: rank {} on {} sees another directory than rank 0; ranks need a shared file system",
                    path_, comm_->rank(), host_name()));
  });
}

std::string RunDirectory::path(std::string_view name) const { return join(path_, name); }

bool RunDirectory::exists(std::string_view name) const {
  Index found = 0;
  if (comm_->root()) {
    std::error_code ignored;
    found = std::filesystem::exists(path(name), ignored) ? 1 : 0;
  }
  comm_->broadcast(std::span<Index>(&found, 1));
  return found != 0;
}

void RunDirectory::make_directory(std::string_view name) const {
  comm_->agree_on_root([&] {
    std::error_code error;
    std::filesystem::create_directories(path(name), error);
    require(!error, fmt::format("{}: cannot create the directory: {}", path(name), error.message()));
  });
}

void RunDirectory::remove(std::string_view name) const {
  comm_->agree_on_root([&] {
    std::error_code error;
    std::filesystem::remove(path(name), error);
    require(!error, fmt::format("{}: cannot remove: {}", path(name), error.message()));
  });
}

void RunDirectory::write_text(std::string_view name, std::string_view text) const {
  comm_->agree_on_root([&] { write_text_file(path(name), text); });
}

std::string RunDirectory::read_text(std::string_view name) const {
  std::string text;
  comm_->agree_on_root([&] { text = read_text_file(path(name)); });
  comm_->broadcast(text);
  return text;
}

Index RunDirectory::free_space() const {
  Index bytes = 0;
  comm_->agree_on_root([&] { bytes = upit::free_space(path_); });
  comm_->broadcast(std::span<Index>(&bytes, 1));
  return bytes;
}

void RunDirectory::require_free_space(Index bytes, std::string_view what) const {
  comm_->agree_on_root([&] { upit::require_free_space(path_, bytes, what); });
}

}  // namespace upit
