// SPDX-License-Identifier: Apache-2.0
// Owns the choices of the expansion: who become parents, by what weight. No files, no ranks.
#include <fmt/format.h>

#include <cmath>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/io/hash.hpp"
#include "upit/upcycle/expand.hpp"

namespace upit::upcycle {

Strategy parse_strategy(std::string_view text) {
  if (text == "genetic") return Strategy::genetic;
  if (text == "random") return Strategy::random;
  require(text == "none",
          fmt::format("expand.strategy: found \"{}\", allowed: \"genetic\", \"random\", \"none\"", text));
  return Strategy::none;
}

Backbone parse_backbone(std::string_view text) {
  if (text == "mean") return Backbone::mean;
  require(text == "weighted",
          fmt::format("expand.backbone: found \"{}\", allowed: \"mean\", \"weighted\"", text));
  return Backbone::weighted;
}

std::string backbone_name(Backbone backbone) { return backbone == Backbone::mean ? "mean" : "weighted"; }

std::pair<Index, Index> choose_pair(ExpandOptions const& options, Index child,
                                    std::function<double(Index, Index)> const& cosine,
                                    std::set<std::pair<Index, Index>> const& used) {
  std::vector<std::pair<Index, Index>> candidates;  // lower pairs first
  for (Index i = 0; i < child; ++i) {
    for (Index j = i + 1; j < child; ++j) {
      bool const taken = !options.reuse_pairs && used.contains({i, j});
      if (i != options.base_is && j != options.base_is && !taken) candidates.emplace_back(i, j);
    }
  }
  require(!candidates.empty(), fmt::format("expand: no pair is left for child {}", child));
  if (options.strategy == Strategy::random) {
    RandomKey const key = random_key(options.seed, "expand.pair", child);
    return candidates[random_below(key, 0, candidates.size())];
  }
  auto best = candidates.front();
  double least = 2.0;
  for (auto const& [i, j] : candidates) {
    double const value = cosine(i, j);
    require(std::isfinite(value),
            fmt::format("expand: experts {} and {} cannot be compared: one of them equals its start", i, j));
    if (value < least) {
      least = value;
      best = {i, j};
    }
  }
  return best;
}

double child_weight(std::uint64_t seed, Index child) {
  return random_uniform(random_key(seed, "expand.weight", child), 0);
}

std::string child_ancestry(ExpandOptions const& options, Child const& child, std::string const& first,
                           std::string const& second) {
  return fmt::format("child {} of {} and {}, weight {}, drop {}, seed {}", child.number, hash_text(first),
                     hash_text(second), child.weight, options.drop, options.seed);
}

}  // namespace upit::upcycle
