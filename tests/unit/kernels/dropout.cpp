// SPDX-License-Identifier: Apache-2.0
// Tests dropout: the mask's definition, its independence of layout, its statistics, its backward.
#include "upit/kernels/dropout.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

RandomKey const kKey = random_key(1, "dropout", 2, 3);

struct Tokens {
  std::vector<std::uint64_t> sample;
  std::vector<int> position;
};

// samples of length 5; the third has an id beyond 32 bits
Tokens tokens(Index n) {
  Tokens t;
  for (Index i = 0; i < n; ++i) {
    std::uint64_t const id = static_cast<std::uint64_t>(i / 5);
    t.sample.push_back(id == 2 ? (std::uint64_t{1} << 39) + 1 : id);
    t.position.push_back(static_cast<int>(i % 5));
  }
  return t;
}

bool kept(std::uint64_t sample, int position, Index c, double drop) {
  auto const bits = random_bits(kKey, sample * 16777216u + static_cast<std::uint64_t>(position),
                                static_cast<std::uint64_t>(c / 4));
  return static_cast<double>(bits.word[c % 4]) >= std::floor(drop * 4294967296.0);
}

template <class T>
std::vector<T> run(std::vector<T> const& x, Tokens const& t, Index c, T drop) {
  Index const n = static_cast<Index>(t.sample.size());
  auto const y = to_view(std::vector<T>(x.size(), T(99)), n, c);
  kernels::dropout_forward<T>(Exec(), to_view(x, n, c), to_view(t.sample), to_view(t.position), kKey, drop,
                              y);
  return to_vector(y);
}

template <class T>
class DropoutTest : public ::testing::Test {};
TYPED_TEST_SUITE(DropoutTest, Reals);

TYPED_TEST(DropoutTest, ForwardAndBackward) {
  using T = TypeParam;
  for (Index const n : {0, 1, 13}) {
    for (Index const c : {0, 1, 3, 8, 63, 64, 65, 200}) {
      for (T const drop : {T(0), T(0.05), T(0.5), T(0.99)}) {
        auto const t = tokens(n);
        auto const x = normal<T>(n * c, 1);
        auto const before = normal<T>(n * c, 2);
        auto const dx = to_view(before, n, c);
        kernels::dropout_backward<T>(Exec(), to_view(x, n, c), to_view(t.sample), to_view(t.position), kKey,
                                     drop, dx);
        std::vector<double> forward, backward;
        double const factor = 1.0 / (1.0 - static_cast<double>(drop));
        for (Index i = 0; i < n; ++i) {
          for (Index j = 0; j < c; ++j) {
            auto const at = static_cast<std::size_t>(i * c + j);
            bool const k = kept(t.sample[static_cast<std::size_t>(i)],
                                t.position[static_cast<std::size_t>(i)], j, static_cast<double>(drop));
            forward.push_back(k ? factor * static_cast<double>(x[at]) : 0.0);
            backward.push_back(static_cast<double>(before[at]) + forward.back());
          }
        }
        // 1 - drop, its inverse, the product; then a sum of numbers of size `factor` * |x|
        expect_near_all(run<T>(x, t, c, drop), forward, roundings<T>(3), 0, "y");
        expect_near_all(to_vector(dx), backward, 0, roundings<T>(4, 5 * factor), "dx");
      }
    }
  }
}

TYPED_TEST(DropoutTest, InPlace) {
  using T = TypeParam;
  auto const t = tokens(6);
  auto const x = normal<T>(6 * 70, 1);
  auto const y = to_view(x, 6, 70);
  kernels::dropout_forward<T>(Exec(), y, to_view(t.sample), to_view(t.position), kKey, T(0.3), y);
  EXPECT_EQ(to_vector(y), run<T>(x, t, 70, T(0.3)));
}

TEST(Dropout, MaskBelongsToTheTokenNotToItsRow) {
  Index const n = 20, c = 37;
  auto const t = tokens(n);
  std::vector<float> const ones(static_cast<std::size_t>(n * c), 1.0f);
  auto const straight = run<float>(ones, t, c, 0.5f);
  Tokens reversed = t;
  std::reverse(reversed.sample.begin(), reversed.sample.end());
  std::reverse(reversed.position.begin(), reversed.position.end());
  auto const backwards = run<float>(ones, reversed, c, 0.5f);
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < c; ++j) {
      ASSERT_EQ(straight[static_cast<std::size_t>(i * c + j)],
                backwards[static_cast<std::size_t>((n - 1 - i) * c + j)]);
    }
  }
}

TYPED_TEST(DropoutTest, MaskAloneIsThatOfForward) {
  using T = TypeParam;
  for (Index const c : {0, 1, 63, 64, 65, 200}) {
    auto const t = tokens(13);
    std::vector<T> const ones(static_cast<std::size_t>(13 * c), T(1));
    auto const mask = to_view(std::vector<T>(ones.size(), T(99)), 13, c);
    kernels::dropout_mask<T>(Exec(), to_view(t.sample), to_view(t.position), kKey, T(0.5), mask);
    auto expected = run<T>(ones, t, c, T(0.5));
    for (T& x : expected) x /= 2;
    EXPECT_EQ(to_vector(mask), expected);
  }
}

TEST(Dropout, KeepsTheRightShareAndTheMean) {
  Index const n = 500, c = 400;
  double const drop = 0.05, count = static_cast<double>(n * c);
  auto const y = run<double>(std::vector<double>(static_cast<std::size_t>(n * c), 1.0), tokens(n), c, drop);
  double zeros = 0, sum = 0;
  for (double v : y) zeros += v == 0.0, sum += v;
  double const sigma = std::sqrt(drop * (1 - drop) / count);  // five of them: once in 10^6 seeds
  EXPECT_NEAR(zeros / count, drop, 5 * sigma);
  EXPECT_NEAR(sum / count, 1.0, 5 * sigma / (1 - drop));
}

TEST(Dropout, RefusesDropOfOne) {
  View2<float> const x("x", 1, 4);
  EXPECT_THROW(kernels::dropout_forward<float>(Exec(), x, View1<std::uint64_t>("s", 1), View1<int>("p", 1),
                                               kKey, 1.0f, x),
               std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
