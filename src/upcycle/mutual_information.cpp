// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/mutual_information.hpp"

#include <cmath>
#include <utility>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"

namespace upit::upcycle {
namespace {

/// One layer: counts (D, E).
double table_information(double const* counts, Index domains, Index experts) {
  std::vector<double> of_domain(at(domains), 0.0), of_expert(at(experts), 0.0);
  double total = 0.0;
  for (Index d = 0; d < domains; ++d) {
    for (Index e = 0; e < experts; ++e) {
      double const c = counts[d * experts + e];
      of_domain[at(d)] += c;
      of_expert[at(e)] += c;
      total += c;
    }
  }
  double information = 0.0;
  for (Index d = 0; d < domains; ++d) {
    for (Index e = 0; e < experts; ++e) {
      double const c = counts[d * experts + e];
      if (c > 0.0) information += c / total * std::log(c * total / (of_domain[at(d)] * of_expert[at(e)]));
    }
  }
  return information;
}

/// The labels in another order (Fisher and Yates).
std::vector<int> permuted(std::vector<int> labels, RandomKey key) {
  for (std::size_t i = labels.size(); i > 1; --i) {
    std::swap(labels[i - 1], labels[static_cast<std::size_t>(random_below(key, i, i))]);
  }
  return labels;
}

}  // namespace

std::vector<double> mutual_information(std::span<double const> counts, Index layers, Index domains,
                                       Index experts) {
  expect(static_cast<Index>(counts.size()) == layers * domains * experts, "counts have shape (L, D, E)");
  std::vector<double> information;
  for (Index l = 0; l < layers; ++l) {
    information.push_back(table_information(counts.data() + l * domains * experts, domains, experts));
  }
  return information;
}

std::vector<double> domain_counts(SampleExperts const& s, std::span<int const> domain) {
  Index const per_sample = s.layers * s.experts;
  expect(static_cast<Index>(s.experts_of.size()) == static_cast<Index>(domain.size()) * per_sample,
         "expert counts of samples have shape (S, L, E)");
  std::vector<double> counts(at(s.layers * s.domains * s.experts), 0.0);
  for (std::size_t i = 0; i < domain.size(); ++i) {
    expect(domain[i] >= 0 && domain[i] < s.domains, "domains are numbered from 0");
    double const* const own = s.experts_of.data() + static_cast<Index>(i) * per_sample;
    for (Index l = 0; l < s.layers; ++l) {
      double* const row = counts.data() + (l * s.domains + domain[i]) * s.experts;
      for (Index e = 0; e < s.experts; ++e) row[e] += own[l * s.experts + e];
    }
  }
  return counts;
}

std::vector<double> permuted_mutual_information(SampleExperts const& s, Index permutations,
                                                std::uint64_t seed) {
  expect(permutations > 0, "a mean needs at least one permutation");
  std::vector<double> mean(at(s.layers), 0.0);
  for (Index r = 0; r < permutations; ++r) {
    auto const labels = permuted(s.domain, random_key(seed, "permuted domains", r));
    auto const one = mutual_information(domain_counts(s, labels), s.layers, s.domains, s.experts);
    for (std::size_t l = 0; l < one.size(); ++l) mean[l] += one[l] / static_cast<double>(permutations);
  }
  return mean;
}

}  // namespace upit::upcycle
