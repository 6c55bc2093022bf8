// SPDX-License-Identifier: Apache-2.0
// Owns the JSON side of the readers; io opens, inflates and counts lines.
#include "upit/text/records.hpp"

#include <fmt/format.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "upit/core/error.hpp"
#include "upit/io/jsonl.hpp"

namespace upit {

namespace {

using Json = nlohmann::json;

std::string type_of(Json const& value) { return value.type_name(); }

std::string read_field(Json const& object, char const* name, bool required, std::string const& where) {
  auto const found = object.find(name);
  if (found == object.end() || (found->is_null() && !required)) {
    require(!required,
            fmt::format("{}: no field \"{}\" (needed: \"instruction\" and \"output\"; \"input\" may "
                        "be left out)",
                        where, name));
    return {};
  }
  require(found->is_string(),
          fmt::format("{}: field \"{}\" is of type {}, a string is needed", where, name, type_of(*found)));
  return found->get<std::string>();
}

/// Calls `use(object, "path:line", line number)` for every line that is not blank; returns how many there
/// were.
Index for_each_object(std::string const& path,
                      std::function<void(Json const&, std::string const&, Index)> const& use) {
  LineReader reader(path);
  std::string line;
  Index objects = 0;
  while (reader.next(line)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    std::string const where = reader.where();
    Json object;
    try {
      object = Json::parse(line);
    } catch (Json::parse_error const& error) {
      fail(fmt::format("{}: not valid JSON at byte {} of the line", where, error.byte));
    }
    require(object.is_object(),
            fmt::format("{}: found JSON of type {}, an object {{...}} is needed", where, type_of(object)));
    use(object, where, reader.number());
    ++objects;
  }
  require(objects > 0, fmt::format("{}: no records in this file", path));
  return objects;
}

}  // namespace

std::string domain_of_path(std::string const& path) {
  std::size_t const slash = path.find_last_of('/');
  std::string const name = slash == std::string::npos ? path : path.substr(slash + 1);
  std::size_t const dot = name.find('.', 1);  // a leading dot is part of the name
  return dot == std::string::npos ? name : name.substr(0, dot);
}

std::vector<Record> read_records(std::string const& path, int domain) {
  std::vector<Record> records;
  for_each_object(path, [&](Json const& object, std::string const& where, Index line) {
    records.push_back({read_field(object, "instruction", true, where),
                       read_field(object, "input", false, where), read_field(object, "output", true, where),
                       domain, line});
  });
  return records;
}

TokenStore read_token_lines(std::string const& path, Index vocabulary, Index context) {
  TokenStore store;
  store.domains = {domain_of_path(path)};
  std::vector<int> tokens;
  for_each_object(path, [&](Json const& object, std::string const& where, Index) {
    auto const found = object.find("tokens");
    require(found != object.end(), fmt::format("{}: no field \"tokens\"", where));
    require(found->is_array(), fmt::format("{}: field \"tokens\" is of type {}, a list of integers is needed",
                                           where, type_of(*found)));
    require(found->size() >= 2, fmt::format("{}: {} tokens, at least 2 are needed (the first is only read)",
                                            where, found->size()));
    require(context == 0 || static_cast<Index>(found->size()) <= context + 1,
            fmt::format("{}: {} tokens, at most {} are allowed (the model reads {}, and predicts one more)",
                        where, found->size(), context + 1, context));
    tokens.clear();
    for (Json const& token : *found) {
      require(token.is_number_integer(),
              fmt::format("{}: a token of type {}, an integer is needed", where, type_of(token)));
      bool const fits = token.is_number_unsigned()
                            ? token.get<std::uint64_t>() < static_cast<std::uint64_t>(vocabulary)
                            : false;  // negative
      require(fits, fmt::format("{}: token {}, allowed are 0 to {} (the model's vocabulary)", where,
                                token.dump(), vocabulary - 1));
      tokens.push_back(token.get<int>());
    }
    store.append(tokens, 1, 0);
  });
  return store;
}

}  // namespace upit
