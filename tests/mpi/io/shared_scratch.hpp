// SPDX-License-Identifier: Apache-2.0
// Owns a scratch directory that all ranks of a test share, and the check that all ranks throw the same.
#pragma once

#include <optional>

#include "unit/io/scratch.hpp"
#include "upit/comm/communicator.hpp"

namespace upit::test {

class SharedScratch {
 public:
  explicit SharedScratch(Communicator const& comm) : comm_(&comm) {
    if (comm.root()) own_.emplace();
    if (comm.root()) path_ = own_->path();
    comm.broadcast(path_);
  }
  ~SharedScratch() { comm_->barrier(); }
  SharedScratch(SharedScratch const&) = delete;
  SharedScratch& operator=(SharedScratch const&) = delete;
  std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }
  /// Rank 0 writes; all wait.
  std::string write(std::string_view name, std::string_view bytes) const {
    if (comm_->root()) own_->write(name, bytes);
    comm_->barrier();
    return path(name);
  }

 private:
  Communicator const* comm_;
  std::optional<Scratch> own_;
  std::string path_;
};

/// Every rank must throw AgreedError with the same one line.
template <class Work>
void expect_agreed(Communicator const& comm, Work&& work, std::vector<std::string> const& parts) {
  std::string what = "no error on rank " + std::to_string(comm.rank());
  bool agreed = false;
  try {
    work();
  } catch (AgreedError const& e) {
    what = e.what();
    agreed = true;
  } catch (Error const& e) {
    what = std::string("a plain error: ") + e.what();
  }
  EXPECT_TRUE(agreed) << what;
  EXPECT_TRUE(comm.same(what)) << what;
  EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  for (std::string const& part : parts) EXPECT_THAT(what, ::testing::HasSubstr(part));
}

}  // namespace upit::test
