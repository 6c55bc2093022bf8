// SPDX-License-Identifier: Apache-2.0
// Owns how much the expert of a token tells about the domain of its sample, beside permuted labels.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "upit/core/index.hpp"

namespace upit::upcycle {

/// Mutual information of expert and domain in each layer, nats:
///   I = sum over d, e of p(d, e) log(p(d, e) / (p(d) p(e))),   p = counts / total.
/// The plug-in estimate: finite counts push it above the truth, which is why it is read beside
/// `permuted_mutual_information`.
///
///   counts  (L, D, E)  slots that tokens of a domain's samples took in each expert
///
/// Returns (L); 0 for a layer without counts.
std::vector<double> mutual_information(std::span<double const> counts, Index layers, Index domains,
                                       Index experts);

/// Slots of each sample's tokens.
struct SampleExperts {
  Index layers = 0, domains = 0, experts = 0;
  std::vector<int> domain;         // (S)
  std::vector<double> experts_of;  // (S, L, E)
};

/// (L, D, E): the counts of all samples of each domain.
std::vector<double> domain_counts(SampleExperts const& samples, std::span<int const> domain);

/// The same measure after the domains of the samples have been exchanged at random, mean over `permutations`
/// of them, keyed by (seed, permutation): what routing that knows nothing of domains would give with tokens
/// of a sample kept together. Returns (L).
std::vector<double> permuted_mutual_information(SampleExperts const& samples, Index permutations,
                                                std::uint64_t seed);

}  // namespace upit::upcycle
