// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the rotary kernels.
#include "upit/kernels/rotary.hpp"

#include <stdexcept>

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

constexpr double kTheta = 10000.0;

double angle(Index position, Index i, Index half) {
  return static_cast<double>(position) *
         std::pow(kTheta, -static_cast<double>(i) / static_cast<double>(half));
}

template <class T>
class Rotary : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Rotary, Types);

TYPED_TEST(Rotary, Table) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [S, half] : {Shape{0, 3}, Shape{1, 1}, Shape{129, 9}, Shape{2048, 4}}) {
    View2<T> const cosine("cosine", S, half), sine("sine", S, half);
    kernels::rotary_table<T>(exec, kTheta, cosine, sine);
    exec.fence();
    Values want_cosine, want_sine;
    for (Index s = 0; s < S; ++s)
      for (Index i = 0; i < half; ++i) {
        want_cosine.push_back(std::cos(angle(s, i, half)));
        want_sine.push_back(std::sin(angle(s, i, half)));
      }
    // One rounding to T; the angle, up to S, carries a few of double's.
    double const tolerance = rounding<T>() + 8 * S * rounding<double>();
    expect_close(to_host(cosine), want_cosine, 0.0, tolerance);
    expect_close(to_host(sine), want_sine, 0.0, tolerance);
  }
}

TYPED_TEST(Rotary, TurnsHeadsAndBack) {
  using T = TypeParam;
  Exec const exec;
  struct Case {
    Index N, heads, rest, half;
  };
  // `rest` columns (the values) must stay as they are.
  for (auto const [N, heads, rest, half] :
       {Case{0, 2, 2, 2}, Case{1, 1, 0, 1}, Case{5, 3, 6, 3}, Case{37, 6, 64, 32}, Case{2, 0, 4, 2}}) {
    Index const S = 50, columns = heads * 2 * half + rest;
    View2<T> const cosine("cosine", S, half), sine("sine", S, half);
    kernels::rotary_table<T>(exec, kTheta, cosine, sine);
    std::vector<int> position;
    for (Index n = 0; n < N; ++n) position.push_back(static_cast<int>((n * 17) % S));
    auto const x = random_values(N * columns, 1);
    auto const qkv = make2<T>(N, columns, x);
    auto const at = make1<int>(position);
    kernels::rotary_forward<T>(exec, at, cosine, sine, heads, qkv);
    exec.fence();
    Values want = x;
    for (Index n = 0; n < N; ++n)
      for (Index h = 0; h < heads; ++h)
        for (Index i = 0; i < half; ++i) {
          Index const first = n * columns + h * 2 * half + i, second = first + half;
          double const c = std::cos(angle(position[n], i, half)), s = std::sin(angle(position[n], i, half));
          want[first] = x[first] * c - x[second] * s;
          want[second] = x[second] * c + x[first] * s;
        }
    // Two table values, two products and a sum, of terms below 2, and the error of the angle in double.
    double const tolerance = 10 * rounding<T>() + 32 * S * rounding<double>();
    expect_close(to_host(qkv), want, 0.0, tolerance);
    kernels::rotary_backward<T>(exec, at, cosine, sine, heads, qkv);
    exec.fence();
    expect_close(to_host(qkv), x, 0.0, 4 * tolerance);  // a rotation's inverse is its transpose: the gradient
  }
}

TEST(RotaryGradient, CentralDifferences) {
  Exec const exec;
  Index const N = 2, heads = 2, half = 2, columns = heads * 2 * half + 3, S = 9;
  View2<double> const cosine("cosine", S, half), sine("sine", S, half);
  kernels::rotary_table<double>(exec, kTheta, cosine, sine);
  auto const position = make1<int>(std::vector<int>{8, 3});
  auto const x = random_values(N * columns, 2);
  auto const dy = random_values(N * columns, 3);
  auto const value = [&](Values const& v) {
    auto const qkv = make2<double>(N, columns, v);
    kernels::rotary_forward<double>(exec, position, cosine, sine, heads, qkv);
    exec.fence();
    return dot(to_host(qkv), dy);
  };
  auto const dqkv = make2<double>(N, columns, dy);
  kernels::rotary_backward<double>(exec, position, cosine, sine, heads, dqkv);
  exec.fence();
  expect_close(to_host(dqkv), central_differences(value, x), 0.0, 1e-8);
}

TEST(RotaryShapes, TooManyHeadsThrow) {
  Exec const exec;
  View2<float> const cosine("cosine", 4, 2), sine("sine", 4, 2), qkv("qkv", 3, 11);
  View1<int> const position("position", 3);
  EXPECT_THROW(kernels::rotary_forward<float>(exec, position, cosine, sine, 3, qkv), std::logic_error);
  EXPECT_NO_THROW(kernels::rotary_forward<float>(exec, position, cosine, sine, 2, qkv));
}

}  // namespace
}  // namespace upit::test
