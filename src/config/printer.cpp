// SPDX-License-Identifier: Apache-2.0
// Owns the text of a resolved deck: the printer, and the comparison of two printed tables.
#include "upit/config/printer.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "upit/config/describe.hpp"
#include "upit/core/error.hpp"

namespace upit {
namespace {

std::string comment(std::string const& text, std::string const& mark = "#") {
  constexpr std::size_t kColumns = 100;
  std::istringstream words(text);
  std::string out, line = mark, word;
  while (words >> word) {
    if (line.size() + 1 + word.size() > kColumns) {
      out += line + '\n';
      line.resize(mark.size());
    }
    line += ' ' + word;
  }
  return out + line + '\n';
}

std::string key_comment(DeckKey const& key, std::string const& default_text) {
  std::string facts(key.unit);
  facts += (facts.empty() ? "" : "; ") + allowed_text(key);
  if (default_text != value_text(key.value)) facts += "; default " + default_text;
  return comment(std::string(key.meaning)) + comment(facts, "#  ");
}

std::string print_sources(std::vector<SourceDeck> sources) {
  std::string out;
  for (auto& source : sources) {
    auto const table = describe(source);
    out += fmt::format("\n[[{}]]\n", table.name);
    for (auto const& key : table.keys) out += fmt::format("{} = {}\n", key.name, value_text(key.value));
  }
  return out;
}

/// `source = []` must stand among the plain keys, [[data.source]] after them.
std::string print_table(DeckTable const& table, DeckTable const& defaults, bool with_comments) {
  std::string out = with_comments ? comment(std::string(table.meaning)) : "";
  out += fmt::format("[{}]\n", table.name);
  std::string after;
  for (std::size_t i = 0; i < table.keys.size(); ++i) {
    auto const& key = table.keys[i];
    auto const* sources = std::get_if<std::vector<SourceDeck>*>(&key.value);
    if (with_comments) {
      out += key_comment(key, value_text(defaults.keys[i].value));
      if (sources) {
        SourceDeck one;
        for (auto const& part : describe(one).keys) {
          out += comment(fmt::format("{} = {}: {}", part.name, value_text(part.value), part.meaning), "#  ");
          out += comment(allowed_text(part), "#    ");
        }
      }
    }
    if (sources && !(*sources)->empty())
      after = print_sources(**sources);
    else
      out += fmt::format("{} = {}\n", key.name, value_text(key.value));
  }
  return out + after;
}

/// "table.key" to value; the i-th [[data.source]] is "data.source[i]".
std::map<std::string, std::string> lines_of(std::string const& text) {
  std::map<std::string, std::string> out;
  std::istringstream in(text);
  std::string line, table;
  int count = 0;
  while (std::getline(in, line)) {
    if (line.empty() || line[0] == '#') continue;
    if (line.starts_with("[["))
      table = fmt::format("{}[{}]", line.substr(2, line.size() - 4), count++);
    else if (line[0] == '[')
      table = line.substr(1, line.size() - 2);
    else if (auto const cut = line.find(" = "); cut != std::string::npos)
      out[table + "." + line.substr(0, cut)] = line.substr(cut + 3);
  }
  return out;
}

}  // namespace

std::string print_deck(Deck const& deck, bool with_comments) {
  Deck copy = deck;
  Deck defaults;
  auto const tables = describe(copy);
  auto const default_tables = describe(defaults);
  std::string out;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    if (i > 0) out += '\n';
    out += print_table(tables[i], default_tables[i], with_comments);
  }
  return out;
}

std::string deck_table(Deck const& deck, std::string_view table) {
  Deck copy = deck;
  for (auto const& candidate : describe(copy))
    if (candidate.name == table) return print_table(candidate, candidate, false);
  expect(false, fmt::format("deck_table: no table {}", table));
  return {};
}

std::vector<std::string> changed_keys(std::string const& before, std::string const& now) {
  auto const old_lines = lines_of(before);
  auto const new_lines = lines_of(now);
  std::vector<std::string> out;
  for (auto const& [key, value] : old_lines) {
    auto const found = new_lines.find(key);
    std::string const other = found == new_lines.end() ? "nothing" : found->second;
    if (other != value) out.push_back(fmt::format("{}: was {}, is {}", key, value, other));
  }
  for (auto const& [key, value] : new_lines)
    if (!old_lines.contains(key)) out.push_back(fmt::format("{}: was nothing, is {}", key, value));
  return out;
}

}  // namespace upit
