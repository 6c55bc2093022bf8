// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the SwiGLU kernels.
#include "upit/kernels/swiglu.hpp"

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

std::vector<Shape> const kShapes = {{0, 4}, {1, 1}, {3, 7}, {5, 64}, {70, 131}};

double sigmoid(double g) { return 1.0 / (1.0 + std::exp(-g)); }

Values forward(Index N, Index F, Values const& gate_up) {
  Values act;
  for (Index n = 0; n < N; ++n)
    for (Index f = 0; f < F; ++f) {
      double const g = gate_up[n * 2 * F + f];
      act.push_back(g * sigmoid(g) * gate_up[n * 2 * F + F + f]);
    }
  return act;
}

template <class T>
class SwiGlu : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SwiGlu, Types);

TYPED_TEST(SwiGlu, Forward) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [N, F] : kShapes) {
    auto const gate_up = random_values(N * 2 * F, 1, 9.0);
    View2<T> const act("act", N, F);
    kernels::swiglu_forward<T>(exec, make2<T>(N, 2 * F, gate_up), act);
    exec.fence();
    // exp to 2 ulp (4 roundings), a sum, a division, a product.
    expect_close(to_host(act), forward(N, F, gate_up), 8 * rounding<T>());
  }
}

TYPED_TEST(SwiGlu, FarGatesStayFinite) {
  using T = TypeParam;
  Exec const exec;
  Values const gate_up = {-1e4, -200, 0, 200, 1e4, 3, 3, 3, 3, 3};
  auto const view = make2<T>(1, 10, gate_up);
  View2<T> const act("act", 1, 5), dact("dact", 1, 5);
  Kokkos::deep_copy(dact, T(1));
  kernels::swiglu_forward<T>(exec, view, act);
  kernels::swiglu_backward<T>(exec, dact, view);
  exec.fence();
  // exp(-200) is no float, and silu(-200) underflows to a zero.
  expect_close(to_host(act), {0, 0, 0, 600, 3e4}, 2 * rounding<T>(), 1e-80);
  expect_close(to_host(view), {0, 0, 1.5, 3, 3, 0, 0, 0, 200, 1e4}, 2 * rounding<T>(), 1e-80);
}

TYPED_TEST(SwiGlu, Backward) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [N, F] : kShapes) {
    auto const gate_up = random_values(N * 2 * F, 2, 6.0);
    auto const dact = random_values(N * F, 3);
    auto const in_place = make2<T>(N, 2 * F, gate_up);
    kernels::swiglu_backward<T>(exec, make2<T>(N, F, dact), in_place);
    exec.fence();
    Values want(N * 2 * F);
    for (Index n = 0; n < N; ++n)
      for (Index f = 0; f < F; ++f) {
        double const g = gate_up[n * 2 * F + f], u = gate_up[n * 2 * F + F + f], d = dact[n * F + f];
        double const s = sigmoid(g);
        want[n * 2 * F + f] = d * u * s * (1 + g * (1 - s));
        want[n * 2 * F + F + f] = d * g * s;
      }
    // s carries 6 roundings, 1 - s as much in absolute terms, times |g| <= 6 and |d u| <= 12.
    double const tolerance = 12 * (1 + 6) * 10 * rounding<T>();
    expect_close(to_host(in_place), want, 0.0, tolerance);
  }
}

TEST(SwiGluGradient, CentralDifferences) {
  Exec const exec;
  Index const N = 3, F = 5;
  auto const x = random_values(N * 2 * F, 4);
  auto const dact = random_values(N * F, 5);
  auto const value = [&](Values const& v) {
    View2<double> const act("act", N, F);
    kernels::swiglu_forward<double>(exec, make2<double>(N, 2 * F, v), act);
    exec.fence();
    return dot(to_host(act), dact);
  };
  auto const gradient = make2<double>(N, 2 * F, x);
  kernels::swiglu_backward<double>(exec, make2<double>(N, F, dact), gradient);
  exec.fence();
  expect_close(to_host(gradient), central_differences(value, x), 0.0, 1e-8);
}

}  // namespace
}  // namespace upit::test
