// SPDX-License-Identifier: Apache-2.0
// Owns how keys and values are put in words: allowed values, TOML text of a value, nearest word.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "upit/config/describe.hpp"

namespace upit {
namespace {

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (char const c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
          out += fmt::format("\\u{:04X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
        else
          out += c;
    }
  }
  return out + '"';
}

std::string number(double value) {
  std::string text = fmt::format("{}", value);
  auto const exponent = text.find('e');
  if (exponent == std::string::npos) return text.find('.') == std::string::npos ? text + ".0" : text;
  // "1e-05": TOML before 1.0 allows no leading zero in an exponent.
  std::size_t digit = exponent + 2;
  while (digit + 1 < text.size() && text[digit] == '0') text.erase(digit, 1);
  return text;
}

std::string bound(double value) {
  return std::abs(value) < 1e15 && value == std::floor(value) ? fmt::format("{:.0f}", value)
                                                              : fmt::format("{}", value);
}

std::string interval(KeyLimits const& limits) {
  std::string out;
  if (std::isfinite(limits.low)) out += (limits.low_open ? ", above " : ", at least ") + bound(limits.low);
  if (std::isfinite(limits.high) && !limits.guard)
    out += (limits.high_open ? ", below " : ", at most ") + bound(limits.high);
  return out;
}

struct AllowedText {
  KeyLimits const& limits;
  std::string operator()(bool*) const { return "true or false"; }
  std::string operator()(Index*) const { return "an integer" + interval(limits); }
  std::string operator()(std::uint64_t*) const { return "an integer" + interval(limits); }
  std::string operator()(double*) const { return "a number" + interval(limits); }
  std::string operator()(std::string*) const {
    if (limits.path)
      return limits.not_path.empty() ? "a path" : fmt::format("{} or a path", quoted(limits.not_path));
    if (limits.words.empty()) return "text";
    std::string out;
    for (auto const word : limits.words) out += (out.empty() ? "" : ", ") + quoted(word);
    return out;
  }
  std::string operator()(std::vector<SourceDeck>*) const { return "an array of tables [[data.source]]"; }
};

struct ValueText {
  std::string operator()(bool const* v) const { return *v ? "true" : "false"; }
  std::string operator()(Index const* v) const { return fmt::format("{}", *v); }
  std::string operator()(std::uint64_t const* v) const { return fmt::format("{}", *v); }
  std::string operator()(double const* v) const { return number(*v); }
  std::string operator()(std::string const* v) const { return quoted(*v); }
  std::string operator()(std::vector<SourceDeck> const* v) const {
    std::string out;
    for (auto source : *v) {
      std::string parts;
      for (auto const& key : describe(source).keys)
        parts += fmt::format("{}{} = {}", parts.empty() ? "" : ", ", key.name, value_text(key.value));
      out += fmt::format("{}{{ {} }}", out.empty() ? "" : ", ", parts);
    }
    return fmt::format("[{}]", out);
  }
};

/// Optimal string alignment: insert, delete, replace, swap of neighbours, each of cost 1.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (std::size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i)
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t const replace = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

}  // namespace

std::string allowed_text(DeckKey const& key) { return std::visit(AllowedText{key.limits}, key.value); }

std::string value_text(KeyValue const& value) { return std::visit(ValueText{}, value); }

bool within(KeyLimits const& limits, double value) {
  if (!std::isfinite(value)) return false;
  if (limits.low_open ? value <= limits.low : value < limits.low) return false;
  return limits.high_open ? value < limits.high : value <= limits.high;
}

std::string nearest(std::string_view word, std::vector<std::string> const& candidates) {
  std::string best;
  auto best_cost = std::pair(std::string_view::npos, std::string_view::npos);
  for (auto const& candidate : candidates) {
    auto const prefix = std::mismatch(word.begin(), word.end(), candidate.begin(), candidate.end()).first;
    auto const cost =
        std::pair(edit_distance(word, candidate), static_cast<std::size_t>(word.end() - prefix));
    if (cost < best_cost) {
      best_cost = cost;
      best = candidate;
    }
  }
  return best;
}

}  // namespace upit
