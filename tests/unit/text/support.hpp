// SPDX-License-Identifier: Apache-2.0
// Owns what the tests of text share: an error's text, and where the real data lies.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "unit/io/scratch.hpp"
#include "upit/core/error.hpp"

namespace upit::test {

inline std::string message_of(std::function<void()> const& work) {
  try {
    work();
  } catch (Error const& error) {
    return error.what();
  }
  return "no error";
}

/// Path below the shared data folder; empty if it is not there.
inline std::string shared_data(std::string const& name) {
  std::string const path = std::string(UPIT_SHARED_DATA) + "/" + name;
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace upit::test
