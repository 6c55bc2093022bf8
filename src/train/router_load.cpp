// SPDX-License-Identifier: Apache-2.0
// Owns the figures that follow from the counts.
#include "upit/train/router_load.hpp"

#include <algorithm>
#include <numeric>
#include <span>

namespace upit {
namespace {

double largest_over_mean(std::span<double const> load) {
  double const total = std::accumulate(load.begin(), load.end(), 0.0);
  return total > 0.0 ? *std::ranges::max_element(load) * static_cast<double>(load.size()) / total : 0.0;
}

std::span<double const> layer_of(std::vector<double> const& assigned, Index layer, Index experts) {
  return std::span<double const>(assigned).subspan(at(layer * experts), at(experts));
}

}  // namespace

void RouterLoad::add(RouterLoad const& other) {
  if (assigned.size() < other.assigned.size()) assigned.resize(other.assigned.size());
  for (std::size_t i = 0; i < other.assigned.size(); ++i) assigned[i] += other.assigned[i];
  double const all = tokens + other.tokens;
  auto const mean = [&](double mine, double others) {
    return all > 0.0 ? (mine * tokens + others * other.tokens) / all : 0.0;
  };
  layer_entropy.resize(std::max(layer_entropy.size(), other.layer_entropy.size()));
  for (std::size_t l = 0; l < other.layer_entropy.size(); ++l) {
    layer_entropy[l] = mean(layer_entropy[l], other.layer_entropy[l]);
  }
  entropy = mean(entropy, other.entropy);
  tokens = all;
}

double RouterLoad::layer_imbalance(Index layer, Index experts) const {
  return assigned.empty() ? 0.0 : largest_over_mean(layer_of(assigned, layer, experts));
}

double RouterLoad::imbalance(Index layers, Index experts) const {
  double worst = 0.0;
  for (Index l = 0; l < layers; ++l) worst = std::max(worst, layer_imbalance(l, experts));
  return worst;
}

Index RouterLoad::layer_dead(Index layer, Index experts) const {
  auto const load = layer_of(assigned, layer, experts);
  return std::count(load.begin(), load.end(), 0.0);
}

Index RouterLoad::dead() const { return std::count(assigned.begin(), assigned.end(), 0.0); }

double rank_imbalance(std::vector<double> const& received, Index layers, Index group) {
  Index const ranks = std::ssize(received) / layers;
  std::vector<double> load(at(group));
  double worst = 0.0;
  for (Index first = 0; first < ranks; first += group) {
    for (Index l = 0; l < layers; ++l) {
      for (Index q = 0; q < group; ++q) load[at(q)] = received[at((first + q) * layers + l)];
      worst = std::max(worst, largest_over_mean(load));
    }
  }
  return worst;
}

}  // namespace upit
