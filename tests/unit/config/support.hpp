// SPDX-License-Identifier: Apache-2.0
// Owns what the deck's tests share: the lines of the error that a deck causes.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "upit/config/reader.hpp"

namespace upit::test {

/// Lines of the error from reading `text` as folder/d.toml in /home; empty if there is none.
inline std::vector<std::string> faults(std::string const& text,
                                       std::vector<std::string> const& overrides = {}) {
  try {
    parse_deck(text, "d.toml", overrides, "/home");
  } catch (Error const& error) {
    std::vector<std::string> lines;
    std::istringstream in(error.what());
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }
  return {};
}

}  // namespace upit::test
