// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the cross-entropy kernels.
#include "upit/kernels/cross_entropy.hpp"

#include <limits>
#include <type_traits>

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

std::vector<Shape> const kShapes = {{0, 4},    {1, 1},    {3, 7},    {9, 64},
                                    {4, 1025}, {2, 5000}, {65, 300}, {130, 520}};

std::vector<int> targets(Index M, Index V) {
  std::vector<int> t;
  for (Index m = 0; m < M; ++m) t.push_back(m % 4 == 2 ? -1 : static_cast<int>((m * 31 + V - 1) % V));
  return t;
}

struct Result {
  Values nll, gradient;
};

/// The same numbers as (columns, rows).
Values transposed(Values const& x, Index rows, Index columns) {
  Values t(x.size());
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < columns; ++c) t[at(c * rows + r)] = x[at(r * columns + c)];
  return t;
}

/// Scratch of the kernels, not a number anywhere: they may not read it before they write it.
template <class R>
struct Scratch {
  Scratch(Index M, Index V)
      : largest("largest", kernels::vocabulary_blocks(V), M), sum("sum", kernels::vocabulary_blocks(V), M) {
    Kokkos::deep_copy(largest, std::numeric_limits<R>::quiet_NaN());
    Kokkos::deep_copy(sum, std::numeric_limits<R>::quiet_NaN());
  }
  View2<R> largest, sum;
};

/// Logits are (V, M) here as in the kernels.
template <class R>
Values nll_of(Index M, Index V, std::vector<int> const& target, Values const& logits) {
  Exec const exec;
  Scratch<R> const s(M, V);
  View1<R> const nll("nll", M);
  kernels::cross_entropy<R>(exec, make1<int>(target), make2<R>(V, M, logits), s.largest, s.sum, nll);
  exec.fence();
  return to_host(nll);
}

template <class T>
struct Backward {
  Backward(Index M, Index V, std::vector<int> const& target, Values const& logits, Real<T> scale) {
    Exec const exec;
    Scratch<Real<T>> const s(M, V);
    auto const in = make2<Real<T>>(V, M, logits);
    View2<T> out;
    if constexpr (std::is_same_v<T, Real<T>>) {
      out = in;
    } else {
      out = View2<T>("dlogits", V, M);
    }
    View1<Real<T>> const loss("nll", M);
    kernels::cross_entropy_backward<T>(exec, make1<int>(target), scale, in, s.largest, s.sum, out, loss);
    exec.fence();
    nll = to_host(loss);
    gradient = transposed(to_host(out), V, M);
  }
  Values nll, gradient;  // (M), (M, V)
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
using Types = ::testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(CrossEntropy, Types);

TYPED_TEST(CrossEntropy, ForwardAndBackward) {
  using T = TypeParam;
  using R = Real<T>;
  double const scale = 0.25, range = 12.0;
  for (auto const [M, V] : kShapes) {
    auto const target = targets(M, V);
    auto const logits = random_values(M * V, 1, range);
    auto const want = reference(M, V, target, logits, scale);
    Backward<T> const got(M, V, target, transposed(logits, M, V), R(scale));
    EXPECT_EQ(got.nll, nll_of<R>(M, V, target, transposed(logits, M, V)));
    // logit - largest rounds to 2 range u; exp to 4 u; a block of 256 is summed in order, then V/256 blocks,
    // each brought to the common maximum by one more exp. The log turns relative error into absolute.
    double const sum = (2 * range + 8 + std::min<Index>(V, 256) + V / 256) * rounding<R>();
    expect_close(got.nll, want.nll, 2 * rounding<R>(), sum + 4 * range * rounding<R>());
    expect_close(got.gradient, want.gradient, std::is_same_v<T, R> ? 0.0 : rounding<T>(),
                 scale * (2 * sum + 6 * rounding<R>()));
    for (Index m = 0; m < M; ++m)  // gradients of a softmax sum to zero
      if (target[m] >= 0) {
        double total = 0, size = 0;
        for (Index v = 0; v < V; ++v) {
          total += got.gradient[m * V + v];
          size += std::abs(got.gradient[m * V + v]);
        }
        EXPECT_NEAR(total, 0.0, scale * 2 * sum + V * rounding<R>() + size * rounding<T>());
      }
  }
}

TYPED_TEST(CrossEntropy, LargeLogitsAndTies) {
  using T = TypeParam;
  Values const logits = {1e4, 1e4, -1e4, -1e4, 5, 5, 5, 5};
  Backward<T> const got(2, 4, {2, 3}, transposed(logits, 2, 4), 1);
  expect_close(got.nll, {2e4 + std::log(2.0), std::log(4.0)}, 2 * rounding<Real<T>>());
  expect_close(got.gradient, {0.5, 0.5, -1, 0, 0.25, 0.25, 0.25, -0.75}, 2 * rounding<T>());
}

TYPED_TEST(CrossEntropy, NotANumberIsNotHidden) {
  using R = Real<TypeParam>;
  for (Index const bad : {0, 5, 300}) {
    Values logits = random_values(301, 2);
    logits[bad] = std::nan("");
    EXPECT_TRUE(std::isnan(nll_of<R>(1, 301, {3}, logits)[0])) << "with a NaN at " << bad;
  }
}

TEST(CrossEntropyGradient, CentralDifferences) {
  Index const M = 3, V = 6;
  std::vector<int> const target = {5, -1, 0};
  auto const x = random_values(M * V, 3);
  double const scale = 0.7;
  auto const value = [&](Values const& v) {
    return scale * dot(nll_of<double>(M, V, target, transposed(v, M, V)), Values(M, 1.0));
  };
  Backward<double> const got(M, V, target, transposed(x, M, V), scale);
  expect_close(got.gradient, central_differences(value, x), 0.0, 1e-8);
}

}  // namespace
}  // namespace upit::test
