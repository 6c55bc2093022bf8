// SPDX-License-Identifier: Apache-2.0
// Owns the tests of attention's row functions and of elementwise kernels.
#include "upit/kernels/attention_softmax.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "unit/kernels/views.hpp"
#include "upit/kernels/elementwise.hpp"

namespace upit::test {
namespace {

// Row n has n + 1 valid columns at most, as a causal block has. Free functions: CUDA lambdas cannot be in
// tests.
KOKKOS_INLINE_FUNCTION Index valid_of(Index n, Index width) { return n < width ? n : width; }

template <class T>
void softmax_rows(Exec const& exec, View2<T> score, T scale, View1<T> lse) {
  Index const N = score.extent(0), W = score.extent(1);
  Kokkos::parallel_for(
      "upit::test_softmax", kernels::row_policy(exec, N, W), KOKKOS_LAMBDA(kernels::Row const& row) {
        Index const n = kernels::row_index(row);
        T const value = kernels::softmax_row<T>(row, score.data() + n * W, valid_of(n, W), W, scale);
        kernels::row_once(row, [=] { lse(n) = value; });
      });
}

template <class T>
void softmax_rows_again(Exec const& exec, View2<T> score, T scale, View1<T> lse) {
  Index const N = score.extent(0), W = score.extent(1);
  Kokkos::parallel_for(
      "upit::test_softmax_again", kernels::row_policy(exec, N, W), KOKKOS_LAMBDA(kernels::Row const& row) {
        Index const n = kernels::row_index(row);
        kernels::softmax_recompute_row<T>(row, score.data() + n * W, valid_of(n, W), W, scale, lse(n));
      });
}

template <class T>
void softmax_rows_gradient(Exec const& exec, View2<T const> probability, View2<T> dscore, T scale,
                           View1<T const> delta) {
  Index const N = probability.extent(0), W = probability.extent(1);
  Kokkos::parallel_for(
      "upit::test_softmax_gradient", kernels::row_policy(exec, N, W), KOKKOS_LAMBDA(kernels::Row const& row) {
        Index const n = kernels::row_index(row);
        kernels::softmax_gradient_row<T>(row, probability.data() + n * W, dscore.data() + n * W,
                                         valid_of(n, W), W, scale, delta(n));
      });
}

template <class T>
class AttentionSoftmax : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(AttentionSoftmax, Types);

TYPED_TEST(AttentionSoftmax, RowsAndTheirRecomputation) {
  using T = TypeParam;
  Exec const exec;
  double const range = 40.0, scale = 0.125;
  for (auto const [N, W] : {Shape{0, 3}, Shape{2, 1}, Shape{9, 7}, Shape{70, 65}}) {
    auto const score = random_values(N * W, 1, range);
    auto const probability = make2<T>(N, W, score), again = make2<T>(N, W, score);
    View1<T> const lse("lse", N);
    softmax_rows<T>(exec, probability, T(scale), lse);
    softmax_rows_again<T>(exec, again, T(scale), lse);
    exec.fence();
    Values want(N * W, 0.0), want_lse(N, -std::numeric_limits<double>::infinity());
    for (Index n = 0; n < N; ++n) {
      Index const valid = valid_of(n, W);
      double sum = 0;
      for (Index i = 0; i < valid; ++i) sum += std::exp(scale * score[n * W + i]);
      if (valid > 0) want_lse[n] = std::log(sum);
      for (Index i = 0; i < valid; ++i) want[n * W + i] = std::exp(scale * score[n * W + i]) / sum;
    }
    // The scaled score, up to 5, rounds twice before exp; the sum has W roundings, exp 4.
    double const tolerance = (4 * range * scale + W + 8) * rounding<T>();
    expect_close(to_host(probability), want, tolerance);
    expect_close(to_host(again), want, 2 * tolerance);
    auto const got_lse = to_host(lse);
    for (Index n = 0; n < N; ++n) {
      if (valid_of(n, W) == 0)
        EXPECT_EQ(got_lse[n], want_lse[n]);
      else
        EXPECT_NEAR(got_lse[n], want_lse[n], tolerance);
    }
  }
}

TEST(AttentionSoftmaxGradient, CentralDifferences) {
  Exec const exec;
  Index const N = 4, W = 5;
  double const scale = 0.6;
  auto const x = random_values(N * W, 2);
  auto const dprobability = random_values(N * W, 3);
  View1<double> const lse("lse", N);
  auto const value = [&](Values const& v) {
    auto const p = make2<double>(N, W, v);
    softmax_rows<double>(exec, p, scale, lse);
    exec.fence();
    return dot(to_host(p), dprobability);
  };
  auto const probability = make2<double>(N, W, x);
  softmax_rows<double>(exec, probability, scale, lse);
  exec.fence();
  auto const p = to_host(probability);
  Values delta(N, 0.0);
  for (Index i = 0; i < N * W; ++i) delta[i / W] += p[i] * dprobability[i];
  auto const dscore = make2<double>(N, W, dprobability);
  softmax_rows_gradient<double>(exec, probability, dscore, scale, make1<double>(delta));
  exec.fence();
  expect_close(to_host(dscore), central_differences(value, x), 0.0, 1e-8);
}

// On hosts attention walks a row of scores in blocks of keys; the last block ends at the diagonal.
TYPED_TEST(AttentionSoftmax, BlocksOfARow) {
  using T = TypeParam;
  double const range = 40.0, scale = 0.125;
  for (auto const [valid, width] :
       {Shape{1, 1}, Shape{5, 4}, Shape{17, 16}, Shape{200, 64}, Shape{130, 33}}) {
    Index const blocks = (valid + width - 1) / width, columns = blocks * width;
    auto const score = random_values(columns, 8, range);
    std::vector<T> row(score.begin(), score.end());
    T largest = -std::numeric_limits<T>::infinity(), sum = 0;
    for (Index b = 0; b < blocks; ++b) {
      Index const begin = b * width;
      T const shrunk = kernels::softmax_block_row(row.data() + begin, std::min(width, valid - begin), width,
                                                  T(scale), largest, sum);
      for (Index i = 0; i < begin; ++i) row[at(i)] *= shrunk;
    }
    double total = 0, most = -range;
    for (Index i = 0; i < valid; ++i) {
      total += std::exp(scale * score[at(i)]);
      most = std::max(most, scale * score[at(i)]);
    }
    Values want(at(columns), 0.0), got;
    for (Index i = 0; i < columns; ++i) {
      if (i < valid) want[at(i)] = std::exp(scale * score[at(i)]) / total;
      got.push_back(static_cast<double>(row[at(i)]) / static_cast<double>(sum));
    }
    // The scaled score, up to 5, and the maximum round before exp (4 roundings); each block shrinks what came
    // before it by one more exp and product; the sum has `valid` roundings.
    double const tolerance = static_cast<double>(4 * 5 + 8 + 8 * blocks + valid) * rounding<T>() * 2;
    expect_close(got, want, tolerance);
    EXPECT_NEAR(static_cast<double>(largest), most, 5 * 2 * rounding<T>());
    EXPECT_NEAR(std::log(static_cast<double>(sum)) + most, std::log(total), tolerance);
  }
}

TYPED_TEST(AttentionSoftmax, BackwardOfARow) {
  using T = TypeParam;
  double const scale = 0.125, lse = 3.0, delta = 0.3;
  for (auto const [valid, width] : {Shape{1, 1}, Shape{3, 8}, Shape{64, 64}, Shape{70, 131}}) {
    auto const score = random_values(width, 9, 20.0), gradient = random_values(width, 10);
    std::vector<T> p(score.begin(), score.end()), ds(gradient.begin(), gradient.end());
    kernels::softmax_backward_row(p.data(), ds.data(), valid, width, T(scale), T(lse), T(delta));
    Values want_p(at(width), 0.0), want_ds(at(width), 0.0);
    for (Index i = 0; i < valid; ++i) {
      want_p[at(i)] = std::exp(scale * score[at(i)] - lse);
      want_ds[at(i)] = scale * want_p[at(i)] * (gradient[at(i)] - delta);
    }
    // An argument below 6 rounds twice, exp 4 times; then two products and a difference of numbers below 2.3.
    double const relative = (2 * 6 + 4) * rounding<T>();
    expect_close(Values(p.begin(), p.end()), want_p, relative);
    expect_close(Values(ds.begin(), ds.end()), want_ds, relative + 2 * rounding<T>(),
                 4 * 2.3 * scale * rounding<T>());
  }
}

TYPED_TEST(AttentionSoftmax, DeltaIsARowDotPerHead) {
  using T = TypeParam;
  Exec const exec;
  struct Case {
    Index N, H, D;
  };
  for (auto const [N, H, D] : {Case{0, 2, 4}, Case{1, 1, 1}, Case{5, 3, 7}, Case{33, 4, 64}}) {
    auto const out = random_values(N * H * D, 4), dout = random_values(N * H * D, 5);
    View2<T> const delta("delta", N, H);
    kernels::attention_delta<T>(exec, make2<T>(N, H * D, out), make2<T>(N, H * D, dout), H, delta);
    exec.fence();
    Values want(N * H, 0.0);
    for (Index i = 0; i < N * H * D; ++i) want[i / D] += out[i] * dout[i];
    expect_close(to_host(delta), want, 0.0, (D + 1) * rounding<T>() * 4 * D);  // D terms below 4
  }
}

TYPED_TEST(AttentionSoftmax, ElementwiseKernels) {
  using T = TypeParam;
  Exec const exec;
  for (Index const n : {Index{0}, Index{1}, Index{37}, Index{4096}, Index{10007}}) {  // chunks hold 4096
    auto const x = random_values(n, 6), y = random_values(n, 7);
    auto const sum = make1<T>(y);
    auto const sum2 = make2<T>(n, 1, y);
    kernels::add<T>(exec, make1<T>(x), sum);
    kernels::add<T>(exec, make2<T>(n, 1, x), sum2);
    kernels::scale<T>(exec, T(3), sum);
    kernels::scale<T>(exec, T(3), sum2);
    exec.fence();
    Values want;
    for (Index i = 0; i < n; ++i) want.push_back(T(3) * (static_cast<T>(y[i]) + static_cast<T>(x[i])));
    EXPECT_EQ(to_host(sum), want);
    EXPECT_EQ(to_host(sum2), want);
    kernels::fill<T>(exec, sum, T(-2.5));
    kernels::fill<T>(exec, sum2, T(-2.5));
    exec.fence();
    EXPECT_EQ(to_host(sum), Values(n, -2.5));
    EXPECT_EQ(to_host(sum2), Values(n, -2.5));
  }
}

}  // namespace
}  // namespace upit::test
