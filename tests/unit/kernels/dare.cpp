// SPDX-License-Identifier: Apache-2.0
// Tests the DARE merge against its definition, in pieces, in place and at its limits.
#include "upit/kernels/dare.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

RandomKey const kFirst = random_key(1, "dare", 0, 0, 5), kSecond = random_key(1, "dare", 0, 1, 5);

double masked(double task, RandomKey key, Index i, double drop) {
  auto const bits = random_bits(key, static_cast<std::uint64_t>(i / 4));
  bool const kept = static_cast<double>(bits.word[i % 4]) >= std::floor(drop * 4294967296.0);
  return kept ? task / (1 - drop) : 0.0;
}

template <class T>
std::vector<T> merge(std::vector<T> const& base, std::vector<T> const& first, std::vector<T> const& second,
                     double weight, double drop, Index begin) {
  View1<T> const child("c", first.size());
  kernels::dare_merge<T>(Exec(), to_view(base), to_view(first), to_view(second), weight, drop, kFirst,
                         kSecond, begin, child);
  return to_vector(child);
}

template <class T>
class DareTest : public ::testing::Test {};
TYPED_TEST_SUITE(DareTest, Reals);

TYPED_TEST(DareTest, Merge) {
  using T = TypeParam;
  for (Index const n : {0, 1, 4, 7, 1001}) {
    for (Index const begin : {Index{0}, Index{3}, Index{4}, (Index{1} << 35) + 2}) {
      for (bool const based : {false, true}) {
        for (double const drop : {0.0, 0.2, 0.9}) {
          auto const base = normal<T>(based ? n : 0, 1), first = normal<T>(n, 2), second = normal<T>(n, 3);
          std::vector<double> child;
          for (Index i = 0; i < n; ++i) {
            auto const at = static_cast<std::size_t>(i);
            double const origin = based ? static_cast<double>(base[at]) : 0.0;
            double const a = masked(static_cast<double>(first[at]) - origin, kFirst, begin + i, drop);
            double const b = masked(static_cast<double>(second[at]) - origin, kSecond, begin + i, drop);
            child.push_back(origin + 0.3 * a + 0.7 * b);
          }
          // double arithmetic on numbers below 80, rounded to T once
          expect_near_all(merge<T>(base, first, second, 0.3, drop, begin), child, roundings<T>(1), 1e-13,
                          "child");
        }
      }
    }
  }
}

TYPED_TEST(DareTest, PiecesEqualTheWholeBitForBit) {
  using T = TypeParam;
  Index const n = 203;
  auto const base = normal<T>(n, 1), first = normal<T>(n, 2), second = normal<T>(n, 3);
  auto const whole = merge<T>(base, first, second, 0.4, 0.2, 0);
  for (Index const piece : {1, 5, 64}) {
    for (Index begin = 0; begin < n; begin += piece) {
      Index const end = std::min(n, begin + piece);
      auto const cut = [&](std::vector<T> const& x) {
        return std::vector<T>(x.begin() + begin, x.begin() + end);
      };
      ASSERT_EQ(merge<T>(cut(base), cut(first), cut(second), 0.4, 0.2, begin), cut(whole));
    }
  }
}

TYPED_TEST(DareTest, ChildMayReplaceItsParent) {
  using T = TypeParam;
  auto const base = normal<T>(99, 1), first = normal<T>(99, 2), second = normal<T>(99, 3);
  auto const child = to_view(first);
  kernels::dare_merge<T>(Exec(), to_view(base), child, to_view(second), 0.4, 0.2, kFirst, kSecond, 2, child);
  EXPECT_EQ(to_vector(child), merge<T>(base, first, second, 0.4, 0.2, 2));
}

TEST(Dare, NothingDroppedAndAllWeightOnOneGivesThatParent) {
  auto const base = normal<float>(99, 1), first = normal<float>(99, 2), second = normal<float>(99, 3);
  EXPECT_EQ(merge<float>(base, first, second, 1.0, 0.0, 0), first);
  EXPECT_EQ(merge<float>(base, first, second, 0.0, 0.0, 0), second);
}

TEST(Dare, DropsTheRightShareAndKeepsTheMean) {
  Index const n = 200000;
  std::vector<double> const ones(static_cast<std::size_t>(n), 1.0);
  double zeros = 0, sum = 0;
  for (double v : merge<double>({}, ones, ones, 1.0, 0.2, 0)) zeros += v == 0.0, sum += v;
  double const sigma = std::sqrt(0.2 * 0.8 / static_cast<double>(n));  // five of them: once in 10^6 seeds
  EXPECT_NEAR(zeros / static_cast<double>(n), 0.2, 5 * sigma);
  EXPECT_NEAR(sum / static_cast<double>(n), 1.0, 5 * sigma / 0.8);
}

TEST(Dare, RefusesDropOfOne) {
  View1<float> const x("x", 4);
  EXPECT_THROW(kernels::dare_merge<float>(Exec(), x, x, x, 0.5, 1.0, kFirst, kSecond, 0, x),
               std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
