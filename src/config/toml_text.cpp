// SPDX-License-Identifier: Apache-2.0
// Owns what this room asks of toml11: parse a text, line of a value, value and message in words.
#include "toml_text.hpp"

#include <fmt/core.h>

#include <cctype>
#include <cmath>
#include <sstream>

#include "upit/config/describe.hpp"

namespace upit {
namespace {

/// toml11 4 renamed `line()`.
template <class Location>
Index first_line(Location const& location) {
  if constexpr (requires { location.first_line_number(); })
    return static_cast<Index>(location.first_line_number());
  else
    return static_cast<Index>(location.line());
}

}  // namespace

Index line_of(toml::value const& value) { return first_line(value.location()); }

std::string found_text(toml::value const& value) {
  if (value.is_boolean()) return value.as_boolean() ? "true" : "false";
  if (value.is_integer()) return fmt::format("{}", value.as_integer());
  if (value.is_floating()) {
    double number = value.as_floating();
    return std::isfinite(number) ? value_text(&number) : fmt::format("{}", number);
  }
  if (value.is_string()) {
    auto text = toml::get<std::string>(value);
    return value_text(&text);
  }
  if (value.is_array()) return "an array";
  if (value.is_table()) return "a table";
  return "a date or time (text stands in quotes)";
}

SyntaxFault syntax_fault(std::string const& message) {
  SyntaxFault fault;
  std::istringstream in(message);
  std::string line, what, source, remark;
  bool newest = true;
  while (std::getline(in, line)) {
    if (what.empty()) {
      what = line;
      continue;
    }
    std::size_t const digit = line.find_first_not_of(' ');
    std::size_t const bar = line.find(" | ");
    if (digit == std::string::npos || line.starts_with("Hint")) continue;
    if (std::isdigit(static_cast<unsigned char>(line[digit])) && bar != std::string::npos) {
      // Of several lines ("defined here ... and here") the last in the text is the one to mend.
      Index const number = std::stoll(line.substr(digit));
      newest = number >= fault.line;
      if (newest) {
        fault.line = number;
        source = line.substr(bar + 3);
      }
    } else if (auto const mark = line.find_first_of("^~");
               mark != std::string::npos && line[digit] == '|' && newest) {
      std::size_t const words = line.find_first_not_of("^~- ", mark);
      remark = words == std::string::npos ? "" : line.substr(words);
    }
  }
  if (what.starts_with("[error] ")) what.erase(0, 8);
  if (what.starts_with("toml::") || what.starts_with("parse_"))
    if (auto const colon = what.find(": "); colon != std::string::npos) what.erase(0, colon + 2);
  while (!what.empty() && (what.back() == '.' || what.back() == ' ')) what.pop_back();
  while (!remark.empty() && (remark.back() == '.' || remark.back() == ' ')) remark.pop_back();
  if (what.empty()) std::swap(what, remark);
  fault.text = "not TOML: " + what;
  if (!remark.empty() && remark != "here") fault.text += " (" + remark + ")";
  std::size_t const value = source.find_first_not_of(' ', source.find('=') + 1);
  if (source.find('=') != std::string::npos && value != std::string::npos &&
      std::isalpha(static_cast<unsigned char>(source[value])))
    fault.text += "; text stands in quotes";
  if (!source.empty()) fault.text += "; found: " + source;
  return fault;
}

toml::value parse_toml(std::string const& text, std::string const& name) {
  std::istringstream in(text);
  return toml::parse(in, name);
}

}  // namespace upit
