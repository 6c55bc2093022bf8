// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/mutual_information.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "upit/core/random.hpp"

namespace upit::upcycle {
namespace {

// A handful of logarithms and products of numbers near one.
constexpr double kTolerance = 1e-14;

TEST(MutualInformation, KnownTables) {
  // Layer 0: independent, p(d, e) = p(d) p(e). Layer 1: the expert names the domain. Layer 2: nothing
  // counted.
  std::vector<double> const counts = {1, 2, 3, 2, 4, 6, /**/ 5, 0, 0, 0, 0, 5, /**/ 0, 0, 0, 0, 0, 0};
  auto const found = mutual_information(counts, 3, 2, 3);
  EXPECT_NEAR(found[0], 0.0, kTolerance);
  EXPECT_NEAR(found[1], std::log(2.0), kTolerance);
  EXPECT_EQ(found[2], 0.0);
}

TEST(MutualInformation, IsTheSumOfEntropiesLessTheJointOne) {
  Index const layers = 2, domains = 3, experts = 5;
  std::vector<double> counts;
  RandomKey const key = random_key(1, "test counts");
  for (Index i = 0; i < layers * domains * experts; ++i)
    counts.push_back(static_cast<double>(random_below(key, static_cast<std::uint64_t>(i), 50)));
  auto const found = mutual_information(counts, layers, domains, experts);
  auto const entropy = [](std::vector<double> const& p, double total) {
    double h = 0.0;
    for (double const x : p) h -= x > 0.0 ? x / total * std::log(x / total) : 0.0;
    return h;
  };
  for (Index l = 0; l < layers; ++l) {
    std::vector<double> joint, d(3, 0.0), e(5, 0.0);
    double total = 0.0;
    for (Index i = 0; i < domains * experts; ++i) {
      double const c = counts[static_cast<std::size_t>(l * domains * experts + i)];
      joint.push_back(c);
      d[static_cast<std::size_t>(i / experts)] += c;
      e[static_cast<std::size_t>(i % experts)] += c;
      total += c;
    }
    EXPECT_NEAR(found[static_cast<std::size_t>(l)],
                entropy(d, total) + entropy(e, total) - entropy(joint, total), 10 * kTolerance);
  }
}

/// 60 samples of 10 tokens in one layer; every token of a sample goes to one expert.
SampleExperts whole_samples(bool by_domain) {
  SampleExperts s;
  s.layers = 1;
  s.domains = 3;
  s.experts = 3;
  for (int i = 0; i < 60; ++i) {
    s.domain.push_back(i % 3);
    for (int e = 0; e < 3; ++e) s.experts_of.push_back((by_domain ? i % 3 : i / 20) == e ? 10.0 : 0.0);
  }
  return s;
}

TEST(MutualInformation, PermutedLabelsKnowLittle) {
  SampleExperts const s = whole_samples(true);
  auto const counts = domain_counts(s, s.domain);
  EXPECT_EQ(counts, (std::vector<double>{200, 0, 0, 0, 200, 0, 0, 0, 200}));
  EXPECT_NEAR(mutual_information(counts, 1, 3, 3)[0], std::log(3.0), kTolerance);
  auto const permuted = permuted_mutual_information(s, 200, 1);
  // 60 independent samples: the bias is about (3 - 1)(3 - 1) / (2 * 60) = 0.033 nats (Miller 1955); its
  // standard error over 200 permutations about 0.002.
  EXPECT_NEAR(permuted[0], 0.033, 0.01);
  EXPECT_EQ(permuted_mutual_information(s, 200, 1), permuted);
  EXPECT_NE(permuted_mutual_information(s, 200, 2), permuted);
}

TEST(MutualInformation, DomainsAreCountedLayerByLayer) {
  SampleExperts s;
  s.layers = 2;
  s.domains = 2;
  s.experts = 2;
  s.domain = {1, 0, 1};
  s.experts_of = {1, 2, 3, 4, /**/ 5, 6, 7, 8, /**/ 9, 10, 11, 12};
  EXPECT_EQ(domain_counts(s, s.domain), (std::vector<double>{5, 6, 10, 12, /**/ 7, 8, 14, 16}));
}

}  // namespace
}  // namespace upit::upcycle
