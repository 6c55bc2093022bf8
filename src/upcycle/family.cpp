// SPDX-License-Identifier: Apache-2.0
// Owns how an expansion is written down: JSON for programs, CSV for plots, a table for people.
#include "upit/upcycle/family.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace upit::upcycle {
namespace {

std::string const& name(Family const& family, Index expert) {
  return family.names[static_cast<std::size_t>(expert)];
}

}  // namespace

std::string family_json(Family const& family, std::string const& strategy, std::string const& similarity,
                        double drop) {
  using json = nlohmann::ordered_json;
  json j;
  j["strategy"] = strategy;
  j["similarity_of"] = similarity;
  j["dare_drop"] = drop;
  j["experts"] = family.names;
  j["checkpoints"] = family.checkpoints;
  j["base"] = family.base_is < 0 ? json() : json(name(family, family.base_is));
  j["children"] = json::array();
  for (Child const& c : family.children) {
    j["children"].push_back({{"expert", name(family, c.number)},
                             {"parents", {name(family, c.first), name(family, c.second)}},
                             {"weight_of_first", c.weight},
                             {"cosine_of_parents", c.similarity},
                             {"cosine_to_parents",
                              {{"with_masks", {c.masked.first, c.masked.second}},
                               {"without_masks", {c.unmasked.first, c.unmasked.second}}}}});
  }
  std::size_t const n = family.names.size();
  j["similarity"] = json::array();
  for (std::size_t i = 0; i < n; ++i) {
    auto const row = family.similarity.begin() + static_cast<std::ptrdiff_t>(i * n);
    j["similarity"].push_back(std::vector<double>(row, row + static_cast<std::ptrdiff_t>(n)));
  }
  return j.dump(2) + "\n";
}

std::string similarity_csv(Family const& family) {
  std::string out = "expert";
  for (auto const& column : family.names) out += "," + column;
  out += "\n";
  std::size_t const n = family.names.size();
  for (std::size_t i = 0; i < n; ++i) {
    out += family.names[i];
    for (std::size_t j = 0; j < n; ++j) out += fmt::format(",{}", family.similarity[i * n + j]);
    out += "\n";
  }
  return out;
}

Table family_table(Family const& family) {
  Table table({"child", "parents", "w", "parents' cosine", "cosine to them", "without masks"});
  for (Child const& c : family.children) {
    table.row({fmt::format("{}", c.number), fmt::format("{}, {}", c.first, c.second),
               fmt::format("{:.3f}", c.weight), fmt::format("{:.4f}", c.similarity),
               fmt::format("{:.4f} {:.4f}", c.masked.first, c.masked.second),
               fmt::format("{:.4f} {:.4f}", c.unmasked.first, c.unmasked.second)});
  }
  return table;
}

}  // namespace upit::upcycle
