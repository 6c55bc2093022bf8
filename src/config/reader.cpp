// SPDX-License-Identifier: Apache-2.0
// Owns reading a deck: TOML and overrides in, a checked `Deck` out, all faults in one error.
#include "upit/config/reader.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "toml_text.hpp"
#include "upit/config/check.hpp"
#include "upit/config/describe.hpp"

namespace upit {
namespace {

/// Where a text came from: what stands before the colon of a fault, and the folder of its paths.
struct Origin {
  std::string file;  // empty: the command line
  std::filesystem::path folder;

  std::string at(Index line) const {
    return file.empty() ? "command line" : fmt::format("{}:{}", file, line);
  }
  std::string at(toml::value const& value) const { return file.empty() ? at(0) : at(line_of(value)); }
  Index order(toml::value const& value) const {
    return file.empty() ? std::numeric_limits<Index>::max() : line_of(value);
  }
};

struct Problem {
  Index order;  // line; the command line comes last
  std::string text;
};

std::string trimmed(std::string const& text) {
  std::size_t const first = text.find_first_not_of(" \t");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

class DeckReader {
 public:
  explicit DeckReader(std::string file) : file_(std::move(file)), tables_(describe(deck_)) {}
  DeckReader(DeckReader const&) = delete;  // tables_ points into deck_
  DeckReader& operator=(DeckReader const&) = delete;

  void read_text(std::string const& text, std::filesystem::path const& folder);
  void read_override(std::string const& text, std::filesystem::path const& folder);
  Deck finish();

 private:
  DeckTable* find_table(std::string_view name);
  void unknown_table(std::string const& name, toml::value const& value, Origin const& origin);
  void unknown_key(DeckTable const& table, std::string const& name, std::string const& where, Index order);
  void set_key(DeckKey& key, std::string const& name, toml::value const& value, Origin const& origin);
  void set_sources(std::vector<SourceDeck>& sources, std::string const& name, toml::value const& value,
                   Origin const& origin);
  void set_number(DeckKey& key, std::string const& name, toml::value const& value, Origin const& origin);
  void set_string(DeckKey& key, std::string const& name, toml::value const& value, Origin const& origin);
  void wrong(DeckKey const& key, std::string const& name, toml::value const& value, Origin const& origin);

  std::string file_;
  Deck deck_;
  std::vector<DeckTable> tables_;
  std::map<std::string, Problem> set_at_;  // "table.key" to where it was set; text = "file:line"
  std::set<std::string> bad_;
  std::vector<Problem> problems_;
  bool parsed_ = true;
};

DeckTable* DeckReader::find_table(std::string_view name) {
  auto const found =
      std::find_if(tables_.begin(), tables_.end(), [&](auto const& t) { return t.name == name; });
  return found == tables_.end() ? nullptr : &*found;
}

void DeckReader::unknown_table(std::string const& name, toml::value const& value, Origin const& origin) {
  std::vector<std::string> names;
  std::string list, suggestion;
  for (auto const& table : tables_) {
    names.emplace_back(table.name);
    list += fmt::format("{}[{}]", list.empty() ? "" : ", ", table.name);
    for (auto const& key : table.keys)
      if (key.name == name && !value.is_table() && suggestion.empty())
        suggestion = fmt::format("{}.{}", table.name, key.name);
  }
  if (suggestion.empty()) {
    suggestion = nearest(name, names);
    for (auto const& key : find_table(suggestion)->keys)
      bad_.insert(fmt::format("{}.{}", suggestion, key.name));
  } else {
    bad_.insert(suggestion);
  }
  problems_.push_back(
      {origin.order(value),
       fmt::format("{}: {}: unknown {}; known: {}; did you mean \"{}\"?", origin.at(value), name,
                   value.is_table() ? "table" : "key outside of any table", list, suggestion)});
}

/// The nearest key of the same table, unless another table has this very key.
void DeckReader::unknown_key(DeckTable const& table, std::string const& name, std::string const& where,
                             Index order) {
  std::vector<std::string> names;
  std::string list, elsewhere;
  for (auto const& key : table.keys) {
    names.emplace_back(key.name);
    list += fmt::format("{}{}", list.empty() ? "" : ", ", key.name);
  }
  for (auto const& other : tables_)
    for (auto const& key : other.keys)
      if (key.name == name && elsewhere.empty()) elsewhere = fmt::format("{}.{}", other.name, key.name);
  std::string const suggestion = elsewhere.empty() ? nearest(name, names) : elsewhere;
  bad_.insert(elsewhere.empty() ? fmt::format("{}.{}", table.name, suggestion) : suggestion);
  problems_.push_back({order, fmt::format("{}: {}.{}: unknown key; known in [{}]: {}; did you mean \"{}\"?",
                                          where, table.name, name, table.name, list, suggestion)});
}

void DeckReader::wrong(DeckKey const& key, std::string const& name, toml::value const& value,
                       Origin const& origin) {
  std::string text = fmt::format("{}: {}: found {}, allowed: {}", origin.at(value), name, found_text(value),
                                 allowed_text(key));
  double const number = value.is_integer()    ? static_cast<double>(value.as_integer())
                        : value.is_floating() ? static_cast<double>(value.as_floating())
                                              : 0.0;
  if (key.limits.guard && number > key.limits.high) text += fmt::format(", at most {}", key.limits.high);
  if (value.is_string() && !key.limits.words.empty()) {
    std::vector<std::string> const words(key.limits.words.begin(), key.limits.words.end());
    text += fmt::format("; did you mean \"{}\"?", nearest(toml::get<std::string>(value), words));
  }
  problems_.push_back({origin.order(value), std::move(text)});
  bad_.insert(name);
}

void DeckReader::set_number(DeckKey& key, std::string const& name, toml::value const& value,
                            Origin const& origin) {
  if (auto* const target = std::get_if<double*>(&key.value)) {
    if (!value.is_integer() && !value.is_floating()) return wrong(key, name, value, origin);
    double const number = value.is_integer() ? static_cast<double>(value.as_integer())
                                             : static_cast<double>(value.as_floating());
    if (!within(key.limits, number)) return wrong(key, name, value, origin);
    **target = number;
    return;
  }
  if (!value.is_integer() || !within(key.limits, static_cast<double>(value.as_integer())))
    return wrong(key, name, value, origin);
  if (auto* const index = std::get_if<Index*>(&key.value))
    **index = value.as_integer();
  else
    **std::get_if<std::uint64_t*>(&key.value) = static_cast<std::uint64_t>(value.as_integer());
}

void DeckReader::set_string(DeckKey& key, std::string const& name, toml::value const& value,
                            Origin const& origin) {
  if (!value.is_string()) return wrong(key, name, value, origin);
  auto text = toml::get<std::string>(value);
  auto const& words = key.limits.words;
  if (!words.empty() && std::find(words.begin(), words.end(), text) == words.end())
    return wrong(key, name, value, origin);
  if (key.limits.path && !text.empty() && text != key.limits.not_path)
    text = (origin.folder / text).lexically_normal().string();
  **std::get_if<std::string*>(&key.value) = std::move(text);
}

void DeckReader::set_sources(std::vector<SourceDeck>& sources, std::string const& name,
                             toml::value const& value, Origin const& origin) {
  sources.clear();
  std::set<std::string> paths;
  for (auto const& element : value.as_array()) {
    SourceDeck source;
    auto table = describe(source);
    if (!element.is_table()) {
      problems_.push_back({origin.order(element),
                           fmt::format("{}: {}: found {} in the array, allowed: tables {{ path = \"...\" }}",
                                       origin.at(element), name, found_text(element))});
      bad_.insert(name);
      continue;
    }
    std::size_t const faults = problems_.size();
    for (auto const& [key_name, key_value] : element.as_table()) {
      auto const key = std::find_if(table.keys.begin(), table.keys.end(),
                                    [&n = key_name](auto const& k) { return k.name == n; });
      if (key == table.keys.end())
        unknown_key(table, key_name, origin.at(key_value), origin.order(key_value));
      else
        set_key(*key, fmt::format("{}.{}", table.name, key_name), key_value, origin);
    }
    if (source.path.empty() && problems_.size() == faults)
      problems_.push_back({origin.order(element), fmt::format("{}: {}.path: found nothing, allowed: a path",
                                                              origin.at(element), name)});
    if (!source.path.empty() && !paths.insert(source.path).second)
      problems_.push_back(
          {origin.order(element), fmt::format("{}: {}.path: found {} a second time, allowed: each file once",
                                              origin.at(element), name, value_text(&source.path))});
    sources.push_back(std::move(source));
  }
}

void DeckReader::set_key(DeckKey& key, std::string const& name, toml::value const& value,
                         Origin const& origin) {
  set_at_[name] = {origin.order(value), origin.at(value)};
  bad_.erase(name);
  if (auto* const flag = std::get_if<bool*>(&key.value)) {
    if (!value.is_boolean()) return wrong(key, name, value, origin);
    **flag = value.as_boolean();
  } else if (auto* const sources = std::get_if<std::vector<SourceDeck>*>(&key.value)) {
    if (!value.is_array()) return wrong(key, name, value, origin);
    set_sources(**sources, name, value, origin);
  } else if (std::holds_alternative<std::string*>(key.value)) {
    set_string(key, name, value, origin);
  } else {
    set_number(key, name, value, origin);
  }
}

void DeckReader::read_text(std::string const& text, std::filesystem::path const& folder) {
  Origin const origin{file_, folder};
  toml::value root;
  try {
    root = parse_toml(text, file_);
  } catch (std::exception const& error) {
    auto const fault = syntax_fault(error.what());
    problems_.push_back({fault.line, fmt::format("{}: {}", origin.at(fault.line), fault.text)});
    parsed_ = false;
    return;
  }
  for (auto const& [table_name, table_value] : root.as_table()) {
    DeckTable* const table = find_table(table_name);
    if (!table) {
      unknown_table(table_name, table_value, origin);
    } else if (!table_value.is_table()) {
      problems_.push_back({origin.order(table_value),
                           fmt::format("{}: {}: found {}, allowed: a table [{}]", origin.at(table_value),
                                       table_name, found_text(table_value), table_name)});
    } else {
      for (auto const& [key_name, key_value] : table_value.as_table()) {
        auto const key = std::find_if(table->keys.begin(), table->keys.end(),
                                      [&n = key_name](auto const& k) { return k.name == n; });
        if (key == table->keys.end())
          unknown_key(*table, key_name, origin.at(key_value), origin.order(key_value));
        else
          set_key(*key, fmt::format("{}.{}", table_name, key_name), key_value, origin);
      }
    }
  }
}

/// Text keys take their value as it stands, with or without quotes; all others take it as TOML.
void DeckReader::read_override(std::string const& text, std::filesystem::path const& folder) {
  Origin const origin{"", folder};
  auto const problem = [&](std::string what) {
    problems_.push_back({std::numeric_limits<Index>::max(), "command line: " + std::move(what)});
  };
  std::size_t const equals = text.find('=');
  std::string const name = trimmed(text.substr(0, equals));
  std::size_t const dot = name.find('.');
  if (equals == std::string::npos || dot == std::string::npos)
    return problem(fmt::format("found \"{}\", allowed: table.key=value, as in post_train.top_k=4", text));
  DeckTable* const table = find_table(name.substr(0, dot));
  if (!table) return unknown_table(name.substr(0, dot), toml::table{}, origin);
  std::string const key_name = name.substr(dot + 1);
  auto const key =
      std::find_if(table->keys.begin(), table->keys.end(), [&](auto const& k) { return k.name == key_name; });
  if (key == table->keys.end())
    return unknown_key(*table, key_name, origin.at(0), std::numeric_limits<Index>::max());

  std::string raw = trimmed(text.substr(equals + 1));
  bool const quoted = raw.size() >= 2 && (raw.front() == '"' || raw.front() == '\'');
  if (std::holds_alternative<std::string*>(key->value) && !quoted)
    return set_key(*key, name, toml::value(raw), origin);
  try {
    auto const root = parse_toml("value = " + raw + "\n", "command line");
    if (root.as_table().size() == 1) return set_key(*key, name, root.as_table().at("value"), origin);
  } catch (std::exception const&) {
    // Below: what was found and what is allowed say more than a parser of half a line.
  }
  problem(fmt::format("{}: found {}, allowed: {}", name, raw.empty() ? "nothing" : value_text(&raw),
                      allowed_text(*key)));
  bad_.insert(name);
}

/// Throws unless everything was right. Keys that are wrong by themselves, or probably meant by an unknown
/// key, take part in no further check: what they stand for is not known.
Deck DeckReader::finish() {
  auto const faults = parsed_ ? find_faults(deck_) : std::vector<DeckFault>{};
  for (auto const& fault : faults) {
    bool const known =
        std::any_of(fault.keys.begin(), fault.keys.end(), [&](auto const& k) { return bad_.contains(k); });
    if (known) continue;
    Problem where{0, file_};
    for (auto const& key : fault.keys)
      if (auto const set = set_at_.find(key); set != set_at_.end()) {
        where = set->second;
        break;
      }
    problems_.push_back({where.order, fmt::format("{}: {}: {}", where.text, fault.keys[0], fault.text)});
  }
  if (problems_.empty()) return deck_;
  // The table type of toml11 has no order: by line, then by text.
  std::stable_sort(problems_.begin(), problems_.end(), [](Problem const& a, Problem const& b) {
    return a.order != b.order ? a.order < b.order
                              : a.order != std::numeric_limits<Index>::max() && a.text < b.text;
  });
  std::string all;
  for (auto const& problem : problems_) all += (all.empty() ? "" : "\n") + problem.text;
  fail(all);
}

}  // namespace

Deck parse_deck(std::string const& text, std::string const& file_name,
                std::vector<std::string> const& overrides, std::string const& current) {
  std::filesystem::path const here =
      current.empty() ? std::filesystem::current_path() : std::filesystem::path(current);
  DeckReader reader(file_name);
  reader.read_text(text, here / std::filesystem::path(file_name).parent_path());
  for (auto const& text_of_one : overrides) reader.read_override(text_of_one, here);
  return reader.finish();
}

std::string read_deck_text(std::string const& path) {
  std::error_code ignored;  // a path that cannot be looked at fails below, with its reason
  require(!std::filesystem::is_directory(path, ignored),
          path + ": found a folder, allowed: a deck (a TOML file)");
  std::ifstream in(path, std::ios::binary);
  require(in.good(), fmt::format("{}: cannot be read ({})", path, std::strerror(errno)));
  std::ostringstream text;
  text << in.rdbuf();
  require(!in.bad(), fmt::format("{}: cannot be read ({})", path, std::strerror(errno)));
  return text.str();
}

Deck read_deck(std::string const& path, std::vector<std::string> const& overrides) {
  return parse_deck(read_deck_text(path), path, overrides);
}

}  // namespace upit
