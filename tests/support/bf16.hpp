// SPDX-License-Identifier: Apache-2.0
// Owns what tests of 16-bit storage share: where they can run, and how far its roundings may lead.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "upit/linalg/gemm.hpp"

namespace upit::test {

/// Tests with parameters that need products of bfloat16.
template <class Case>
class Bf16Test : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  }
};

/// 2-norm.
template <class R>
double norm(std::vector<R> const& x) {
  double sum = 0.0;
  for (R const v : x) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

/// |a - b|
template <class R>
double distance(std::vector<R> const& a, std::vector<R> const& b) {
  EXPECT_EQ(a.size(), b.size());
  std::vector<double> away;
  for (std::size_t i = 0; i < a.size(); ++i) {
    away.push_back(static_cast<double>(a[i]) - static_cast<double>(b.at(i)));
  }
  return norm(away);
}

/// How far roundings may lead a loss or the logits, or with `backward` gradients and what follows from them,
/// relative to their size.
///
/// A number is rounded 11 times a layer on its way through the residual stream, attention and FFN (three
/// norms' worth of sums and outputs, q k v, rotary, attention, gate and up, activation, two branches) and
/// three times around the last norm; its gradient as often again. A rounding to 8 bits errs by at most 2^-8
/// of the value, 2^-8 / sqrt(6) in the mean square of values spread over a binade; independent errors add in
/// squares, and what amplifies them (norms of vectors of a dozen numbers, the softmax) is bounded by 2 here.
/// A sum that was held in 16 bits over the model's dozen terms would add a dozen roundings to each of these.
inline double rounding_band(Index layers, bool backward) {
  double const roundings = static_cast<double>(11 * layers + 3) * (backward ? 2.0 : 1.0);
  return 2.0 * std::sqrt(roundings / 6.0) * 0x1p-8;
}

}  // namespace upit::test
