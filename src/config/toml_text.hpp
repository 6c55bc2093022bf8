// SPDX-License-Identifier: Apache-2.0
// Owns what this room asks of toml11 (3.7 and 4.x): parse a text, line of a value, value and message in
// words.
#pragma once

#include <string>
#include <toml.hpp>

#include "upit/core/index.hpp"

namespace upit {

/// Throws a standard exception whose message `syntax_fault` understands.
toml::value parse_toml(std::string const& text, std::string const& name);

/// Line of a value in its text, from 1.
Index line_of(toml::value const& value);

/// The value as a fault quotes it.
std::string found_text(toml::value const& value);

struct SyntaxFault {
  Index line = 1;
  std::string text;
};

/// Puts a message of toml11, which spans several lines, into one:
///   [error] toml::where: what \n --> file \n | \n 3 | source \n | ^--- remark ...
SyntaxFault syntax_fault(std::string const& message);

}  // namespace upit
