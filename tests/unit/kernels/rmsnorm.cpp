// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the RMSNorm kernels.
#include "upit/kernels/rmsnorm.hpp"

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

constexpr double kEps = 1e-5;
std::vector<Shape> const kShapes = {{0, 4}, {1, 1}, {3, 7}, {5, 64}, {70, 130}, {2, 2500}};

struct Result {
  Values y, rstd;
};

Result reference(Index N, Index C, Values const& x, Values const& weight) {
  Result r{Values(N * C), Values(N)};
  for (Index n = 0; n < N; ++n) {
    double squares = 0;
    for (Index c = 0; c < C; ++c) squares += x[n * C + c] * x[n * C + c];
    r.rstd[n] = 1.0 / std::sqrt(squares / C + kEps);
    for (Index c = 0; c < C; ++c) r.y[n * C + c] = weight[c] * x[n * C + c] * r.rstd[n];
  }
  return r;
}

template <class T>
class RmsNorm : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RmsNorm, Types);

// The mean of C squares: C + 2 roundings at worst, halved by the root, then the root, the division, two
// products.
template <class T>
double forward_tolerance(Index C) {
  return (0.5 * (C + 2) + 4) * rounding<T>();
}

TYPED_TEST(RmsNorm, Forward) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [N, C] : kShapes) {
    auto const x = random_values(N * C, 1);
    auto const weight = random_values(C, 2);
    View2<T> const y("y", N, C);
    View1<T> const rstd("rstd", N);
    kernels::rmsnorm_forward<T>(exec, make2<T>(N, C, x), make1<T>(weight), T(kEps), y, rstd);
    exec.fence();
    auto const want = reference(N, C, x, weight);
    expect_close(to_host(y), want.y, forward_tolerance<T>(C));
    expect_close(to_host(rstd), want.rstd, forward_tolerance<T>(C));
  }
}

TYPED_TEST(RmsNorm, AddForwardSumsThenNormalises) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [N, C] : kShapes) {
    auto const x = random_values(N * C, 3);
    auto const delta = random_values(N * C, 4);
    auto const weight = random_values(C, 5);
    auto const in_place = make2<T>(N, C, x);  // sum over x itself, as the residual stream does
    View2<T> const y("y", N, C);
    View1<T> const rstd("rstd", N);
    kernels::add_rmsnorm_forward<T>(exec, in_place, make2<T>(N, C, delta), make1<T>(weight), T(kEps),
                                    in_place, y, rstd);
    exec.fence();
    Values sum(N * C);
    for (Index i = 0; i < N * C; ++i)
      sum[i] = static_cast<T>(static_cast<T>(x[i]) + static_cast<T>(delta[i]));
    EXPECT_EQ(to_host(in_place), sum);
    auto const want = reference(N, C, sum, weight);
    expect_close(to_host(y), want.y, forward_tolerance<T>(C));
    expect_close(to_host(rstd), want.rstd, forward_tolerance<T>(C));
  }
}

TYPED_TEST(RmsNorm, BackwardAgainstPlainLoops) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [N, C] : kShapes) {
    auto const x = random_values(N * C, 6);
    auto const weight = random_values(C, 7);
    auto const dy = random_values(N * C, 8);
    auto const start = random_values(N * C, 9);
    auto const start_weight = random_values(C, 10);
    auto const rstd = reference(N, C, x, weight).rstd;
    auto const dx = make2<T>(N, C, start);
    auto const dweight = make1<T>(start_weight);
    kernels::rmsnorm_backward<T>(exec, make2<T>(N, C, dy), make2<T>(N, C, x), make1<T>(weight),
                                 make1<T>(rstd), dx);
    kernels::rmsnorm_backward_weight<T>(exec, make2<T>(N, C, dy), make2<T>(N, C, x), make1<T>(rstd), dweight);
    exec.fence();

    Values want = start, want_weight = start_weight;
    double largest_rstd = 0;
    for (Index n = 0; n < N; ++n) {
      double const r = rstd[n];
      largest_rstd = std::max(largest_rstd, r);
      double mean = 0;
      for (Index c = 0; c < C; ++c) mean += weight[c] * dy[n * C + c] * x[n * C + c] * r / C;
      for (Index c = 0; c < C; ++c) {
        want[n * C + c] += r * (weight[c] * dy[n * C + c] - x[n * C + c] * r * mean);
        want_weight[c] += dy[n * C + c] * x[n * C + c] * r;
      }
    }
    // |weight dy x| < 8: the dot has C + 3 roundings of at most 8 C, divided by C and times x r^2 r; then ten
    // more.
    double const r3 = std::pow(largest_rstd, 3);
    expect_close(to_host(dx), want, 0.0,
                 rounding<T>() * ((C + 3) * 16 * r3 + 10 * (2 + 4 * largest_rstd + 16 * r3)));
    // N additions of partial sums below 2 + 4 N rstd.
    expect_close(to_host(dweight), want_weight, 0.0, (N + 3) * rounding<T>() * (2 + 4 * N * largest_rstd));
  }
}

TEST(RmsNormGradient, CentralDifferences) {
  Exec const exec;
  Index const N = 3, C = 5;
  auto const x = random_values(N * C, 11);
  auto const weight = random_values(C, 12);
  auto const dy = random_values(N * C, 13);
  auto const value = [&](Values const& at_x, Values const& at_weight, View1<double> rstd) {
    View2<double> const y("y", N, C);
    kernels::rmsnorm_forward<double>(exec, make2<double>(N, C, at_x), make1<double>(at_weight), kEps, y,
                                     rstd);
    exec.fence();
    return dot(to_host(y), dy);
  };
  View1<double> const rstd("rstd", N), unused("unused", N), dweight("dweight", C);
  View2<double> const dx("dx", N, C);
  value(x, weight, rstd);
  auto const dy_view = make2<double>(N, C, dy), x_view = make2<double>(N, C, x);
  kernels::rmsnorm_backward<double>(exec, dy_view, x_view, make1<double>(weight), rstd, dx);
  kernels::rmsnorm_backward_weight<double>(exec, dy_view, x_view, rstd, dweight);
  exec.fence();
  expect_close(to_host(dx), central_differences([&](Values const& v) { return value(v, weight, unused); }, x),
               0.0, 1e-8);
  expect_close(to_host(dweight),
               central_differences([&](Values const& v) { return value(x, v, unused); }, weight), 0.0, 1e-8);
}

}  // namespace
}  // namespace upit::test
