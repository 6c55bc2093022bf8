// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the counter-based random numbers.
#include "upit/core/random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <utility>
#include <vector>

namespace {

TEST(Philox, GivesThePublishedNumbers) {
  // kat_vectors of the Random123 distribution (Salmon et al. 2011): philox4x32-10, zero key and counter, then
  // the digits of pi.
  upit::RandomBits const zero = upit::random_bits({0, 0}, 0, 0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5U);
  EXPECT_EQ(zero.word[1], 0xe169c58dU);
  EXPECT_EQ(zero.word[2], 0xbc57ac4cU);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8U);
  upit::RandomBits const pi =
      upit::random_bits({0xa4093822U, 0x299f31d0U}, 0x85a308d3243f6a88ULL, 0x0370734413198a2eULL);
  EXPECT_EQ(pi.word[0], 0xd16cfe09U);
  EXPECT_EQ(pi.word[1], 0x94fdccebU);
  EXPECT_EQ(pi.word[2], 0x5001e420U);
  EXPECT_EQ(pi.word[3], 0x24126ea1U);
}

TEST(RandomKey, DiffersInEveryArgumentAndIsStable) {
  std::set<std::pair<std::uint32_t, std::uint32_t>> keys;
  auto const add = [&](upit::RandomKey k) { return keys.insert({k.low, k.high}).second; };
  EXPECT_TRUE(add(upit::random_key(1, "dare")));
  EXPECT_TRUE(add(upit::random_key(2, "dare")));
  EXPECT_TRUE(add(upit::random_key(1, "dropout")));
  EXPECT_TRUE(add(upit::random_key(1, "dare", 1)));
  EXPECT_TRUE(add(upit::random_key(1, "dare", 0, 1)));
  EXPECT_TRUE(add(upit::random_key(1, "dare", 0, 0, 1)));
  EXPECT_TRUE(add(upit::random_key(1, "dare", 0, 0, 0, 1)));
  EXPECT_FALSE(add(upit::random_key(1, "dare", 0, 0, 0, 1)));
}

TEST(Uniform, StaysInsideItsIntervalAndIsEven) {
  EXPECT_GT(upit::uniform_from(0, 0), 0.0);
  EXPECT_LT(upit::uniform_from(0xffffffffU, 0xffffffffU), 1.0);
  upit::RandomKey const key = upit::random_key(7, "test");
  int const n = 100'000;
  std::vector<int> bin(10, 0);
  double sum = 0.0;
  for (int i = 0; i < n; ++i) {
    double const u = upit::random_uniform(key, static_cast<std::uint64_t>(i));
    ASSERT_GT(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bin[static_cast<std::size_t>(u * 10.0)];
    sum += u;
  }
  EXPECT_NEAR(sum / n, 0.5, 5.0 * std::sqrt(1.0 / 12.0 / n));
  double chi2 = 0.0;
  for (int const count : bin) chi2 += std::pow(count - n / 10.0, 2) / (n / 10.0);
  EXPECT_LT(chi2, 33.7);  // 9 degrees of freedom, p = 1e-4; the seed is fixed
}

TEST(Normal, HasTheMomentsOfANormal) {
  upit::RandomKey const key = upit::random_key(7, "test");
  int const n = 100'000;
  double m1 = 0.0;
  double m2 = 0.0;
  double m4 = 0.0;
  for (int i = 0; i < n; ++i) {
    double const x = upit::random_normal(key, static_cast<std::uint64_t>(i));
    m1 += x / n;
    m2 += x * x / n;
    m4 += x * x * x * x / n;
  }
  // Standard deviations of the sample moments: 1, sqrt(2), sqrt(96) over sqrt(n); five of them.
  EXPECT_NEAR(m1, 0.0, 5.0 / std::sqrt(n));
  EXPECT_NEAR(m2, 1.0, 5.0 * std::sqrt(2.0 / n));
  EXPECT_NEAR(m4, 3.0, 5.0 * std::sqrt(96.0 / n));
}

TEST(Below, CoversItsRangeEvenly) {
  upit::RandomKey const key = upit::random_key(7, "below");
  std::vector<int> bin(7, 0);
  int const n = 70'000;
  for (int i = 0; i < n; ++i) {
    std::uint64_t const k = upit::random_below(key, static_cast<std::uint64_t>(i), 7);
    ASSERT_LT(k, 7U);
    ++bin[k];
  }
  for (int const count : bin) EXPECT_NEAR(count, n / 7, 5.0 * std::sqrt(n * (1.0 / 7.0) * (6.0 / 7.0)));
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_EQ(upit::random_below(key, i, 1), 0U);
}

}  // namespace
