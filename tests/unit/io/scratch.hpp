// SPDX-License-Identifier: Apache-2.0
// Owns a directory that a test may fill, and the check of an error's text.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "upit/core/error.hpp"

namespace upit::test {

class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "upit-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no scratch directory");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(Scratch const&) = delete;
  Scratch& operator=(Scratch const&) = delete;
  std::string path(std::string_view name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  std::string write(std::string_view name, std::string_view bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

/// Runs `work`, which must throw `Error` with one line that holds every part.
template <class Work>
void expect_error(Work&& work, std::vector<std::string> const& parts) {
  try {
    work();
    ADD_FAILURE() << "no error";
  } catch (Error const& e) {
    std::string const what = e.what();
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
    for (std::string const& part : parts) EXPECT_THAT(what, ::testing::HasSubstr(part));
  }
}

}  // namespace upit::test
