// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the cross-entropy kernels.
#include "upit/kernels/cross_entropy.hpp"

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

std::vector<Shape> const kShapes = {{0, 4}, {1, 1}, {3, 7}, {9, 64}, {4, 1025}, {2, 5000}};

std::vector<int> targets(Index M, Index V) {
  std::vector<int> t;
  for (Index m = 0; m < M; ++m) t.push_back(m % 4 == 2 ? -1 : static_cast<int>((m * 31 + V - 1) % V));
  return t;
}

struct Result {
  Values nll, gradient;
};

Result reference(Index M, Index V, std::vector<int> const& target, Values const& logits, double scale) {
  Result r{Values(M, 0.0), Values(M * V, 0.0)};
  for (Index m = 0; m < M; ++m) {
    if (target[m] < 0) continue;
    double const* const row = logits.data() + m * V;
    double largest = row[0], sum = 0;
    for (Index v = 0; v < V; ++v) largest = std::max(largest, row[v]);
    for (Index v = 0; v < V; ++v) sum += std::exp(row[v] - largest);
    r.nll[m] = std::log(sum) + largest - row[target[m]];
    for (Index v = 0; v < V; ++v)
      r.gradient[m * V + v] = scale * (std::exp(row[v] - largest) / sum - (v == target[m] ? 1.0 : 0.0));
  }
  return r;
}

template <class T>
class CrossEntropy : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CrossEntropy, Types);

TYPED_TEST(CrossEntropy, ForwardAndBackward) {
  using T = TypeParam;
  Exec const exec;
  double const scale = 0.25, range = 12.0;
  for (auto const [M, V] : kShapes) {
    auto const target = targets(M, V);
    auto const logits = random_values(M * V, 1, range);
    auto const want = reference(M, V, target, logits, scale);
    auto const in_place = make2<T>(M, V, logits);
    View1<T> const nll("nll", M), nll_backward("nll", M);
    kernels::cross_entropy<T>(exec, make1<int>(target), in_place, nll);
    kernels::cross_entropy_backward<T>(exec, make1<int>(target), T(scale), in_place, nll_backward);
    exec.fence();
    // logit - largest rounds to 2 range u; exp to 4 u; a row is summed in blocks of 1024 by one thread: at
    // most 1024 + V/1024 roundings, far fewer in vectors. The log turns relative error into absolute.
    double const sum = (2 * range + 4 + std::min<Index>(V, 1024) + V / 1024) * rounding<T>();
    expect_close(to_host(nll), want.nll, 2 * rounding<T>(), sum + 4 * range * rounding<T>());
    EXPECT_EQ(to_host(nll_backward), to_host(nll));
    auto const gradient = to_host(in_place);
    expect_close(gradient, want.gradient, 0.0, scale * (2 * sum + 6 * rounding<T>()));
    for (Index m = 0; m < M; ++m)  // gradients of a softmax sum to zero
      if (target[m] >= 0) {
        double total = 0;
        for (Index v = 0; v < V; ++v) total += gradient[m * V + v];
        EXPECT_NEAR(total, 0.0, scale * 2 * sum + V * rounding<T>());
      }
  }
}

TYPED_TEST(CrossEntropy, LargeLogitsAndTies) {
  using T = TypeParam;
  Exec const exec;
  Values const logits = {1e4, 1e4, -1e4, -1e4, 5, 5, 5, 5};
  auto const in_place = make2<T>(2, 4, logits);
  View1<T> const nll("nll", 2);
  kernels::cross_entropy_backward<T>(exec, make1<int>(std::vector<int>{2, 3}), T(1), in_place, nll);
  exec.fence();
  expect_close(to_host(nll), {2e4 + std::log(2.0), std::log(4.0)}, 2 * rounding<T>());
  expect_close(to_host(in_place), {0.5, 0.5, -1, 0, 0.25, 0.25, 0.25, -0.75}, 2 * rounding<T>());
}

TYPED_TEST(CrossEntropy, NotANumberIsNotHidden) {
  using T = TypeParam;
  Exec const exec;
  for (Index const bad : {0, 5, 36}) {
    Values logits = random_values(37, 2);
    logits[bad] = std::nan("");
    View1<T> const nll("nll", 1);
    kernels::cross_entropy<T>(exec, make1<int>(std::vector<int>{3}), make2<T>(1, 37, logits), nll);
    exec.fence();
    EXPECT_TRUE(std::isnan(to_host(nll)[0])) << "with a NaN at " << bad;
  }
}

TEST(CrossEntropyGradient, CentralDifferences) {
  Exec const exec;
  Index const M = 3, V = 6;
  auto const target = make1<int>(std::vector<int>{5, -1, 0});
  auto const x = random_values(M * V, 3);
  double const scale = 0.7;
  auto const value = [&](Values const& v) {
    View1<double> const nll("nll", M);
    kernels::cross_entropy<double>(exec, target, make2<double>(M, V, v), nll);
    exec.fence();
    return scale * dot(to_host(nll), Values(M, 1.0));
  };
  auto const gradient = make2<double>(M, V, x);
  View1<double> const nll("nll", M);
  kernels::cross_entropy_backward<double>(exec, target, scale, gradient, nll);
  exec.fence();
  expect_close(to_host(gradient), central_differences(value, x), 0.0, 1e-8);
}

}  // namespace
}  // namespace upit::test
