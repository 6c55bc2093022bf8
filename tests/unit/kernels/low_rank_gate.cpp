// SPDX-License-Identifier: Apache-2.0
// Tests the gating of low-rank activations against plain loops and central differences.
#include "upit/kernels/low_rank_gate.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

struct Shape {
  Index tokens, experts, active, parts, rank;
  Index width() const { return experts * parts * rank; }
};

std::vector<Shape> const kShapes = {{0, 4, 2, 2, 8}, {1, 1, 1, 1, 1},  {1, 1, 0, 2, 8},   {5, 1, 0, 1, 3},
                                    {7, 3, 2, 2, 3}, {70, 8, 2, 2, 8}, {33, 8, 8, 1, 17}, {9, 5, 1, 3, 4}};

// v for gates that are 0 where not chosen; E = 1 without a router
std::vector<double> forward(Shape const& s, std::vector<double> const& u, std::vector<int> const& expert,
                            std::vector<double> const& gate, double scale) {
  std::vector<double> v(u.size());
  for (Index n = 0; n < s.tokens; ++n) {
    for (Index e = 0; e < s.experts; ++e) {
      double g = s.active == 0 ? 1.0 : 0.0;
      for (Index k = 0; k < s.active; ++k) {
        auto const slot = static_cast<std::size_t>(n * s.active + k);
        if (expert[slot] == e) g = gate[slot];
      }
      for (Index j = 0; j < s.parts; ++j) {
        for (Index r = 0; r < s.rank; ++r) {
          auto const to = static_cast<std::size_t>(n * s.width() + (j * s.experts + e) * s.rank + r);
          auto const from = static_cast<std::size_t>(n * s.width() + (e * s.parts + j) * s.rank + r);
          v[to] = scale * g * u[from];
        }
      }
    }
  }
  return v;
}

template <class T>
std::vector<T> run_forward(Shape const& s, std::vector<T> const& u, std::vector<int> const& expert,
                           std::vector<T> const& gate) {
  auto const v = to_view(std::vector<T>(u.size(), T(99)), s.tokens, s.width());
  kernels::low_rank_gate_forward<T>(Exec(), to_view(u, s.tokens, s.width()),
                                    to_view(expert, s.tokens, s.active), to_view(gate, s.tokens, s.active),
                                    T(2), s.experts, s.parts, v);
  return to_vector(v);
}

template <class T>
struct Gradients {
  std::vector<T> du, dgate;
};

template <class T>
Gradients<T> run_backward(Shape const& s, std::vector<T> const& dv, std::vector<T> const& u,
                          std::vector<int> const& expert, std::vector<T> const& gate, T dgate_before) {
  auto const du = to_view(std::vector<T>(u.size(), T(99)), s.tokens, s.width());
  auto const dgate = to_view(std::vector<T>(gate.size(), dgate_before), s.tokens, s.active);
  kernels::low_rank_gate_backward<T>(Exec(), to_view(dv, s.tokens, s.width()),
                                     to_view(u, s.tokens, s.width()), to_view(expert, s.tokens, s.active),
                                     to_view(gate, s.tokens, s.active), T(2), s.experts, s.parts, du, dgate);
  return {to_vector(du), to_vector(dgate)};
}

template <class T>
class LowRankGateTest : public ::testing::Test {};
TYPED_TEST_SUITE(LowRankGateTest, Reals);

TYPED_TEST(LowRankGateTest, Forward) {
  using T = TypeParam;
  for (Shape const& s : kShapes) {
    auto const u = normal<T>(s.tokens * s.width(), 1);
    auto const gate = normal<T>(s.tokens * s.active, 2);
    auto const expert = distinct_experts(s.tokens, s.experts, s.active, 3);
    auto const expected = forward(s, to_double(u), expert, to_double(gate), 2.0);
    expect_near_all(run_forward<T>(s, u, expert, gate), expected, roundings<T>(1), 0, "v");
  }
}

TYPED_TEST(LowRankGateTest, ExpertsNotChosenGiveZeroEvenIfNotFinite) {
  using T = TypeParam;
  T const nan = std::numeric_limits<T>::quiet_NaN();
  Shape const s{1, 2, 1, 1, 2};
  EXPECT_EQ(run_forward<T>(s, {nan, nan, 3, 4}, {1}, {T(0.5)}), (std::vector<T>{0, 0, 3, 4}));
  auto const g = run_backward<T>(s, {nan, nan, 3, 4}, {nan, nan, 1, 2}, {1}, {T(0.5)}, T(1));
  EXPECT_EQ(g.du, (std::vector<T>{0, 0, 3, 4}));
  EXPECT_EQ(g.dgate, (std::vector<T>{T(1 + 2 * 11)}));
}

TYPED_TEST(LowRankGateTest, Backward) {
  using T = TypeParam;
  for (Shape const& s : kShapes) {
    auto const u = normal<T>(s.tokens * s.width(), 1);
    auto const gate = normal<T>(s.tokens * s.active, 2);
    auto const dv = normal<T>(s.tokens * s.width(), 4);
    auto const expert = distinct_experts(s.tokens, s.experts, s.active, 3);
    auto const found = run_backward<T>(s, dv, u, expert, gate, T(0.5));
    // v is linear in u and in each gate, so forward with unit numbers gives every derivative.
    std::vector<double> du(u.size()), dgate(gate.size(), 0.5), size(gate.size(), 1.0);
    for (Index n = 0; n < s.tokens; ++n) {
      for (Index e = 0; e < s.experts; ++e) {
        for (Index k = 0; k < std::max<Index>(s.active, 1); ++k) {
          auto const slot = static_cast<std::size_t>(n * s.active + k);
          if (s.active > 0 && expert[slot] != e) continue;
          for (Index j = 0; j < s.parts; ++j) {
            for (Index r = 0; r < s.rank; ++r) {
              auto const to = static_cast<std::size_t>(n * s.width() + (j * s.experts + e) * s.rank + r);
              auto const from = static_cast<std::size_t>(n * s.width() + (e * s.parts + j) * s.rank + r);
              du[from] =
                  2.0 * (s.active > 0 ? static_cast<double>(gate[slot]) : 1.0) * static_cast<double>(dv[to]);
              if (s.active == 0) continue;
              double const term = 2.0 * static_cast<double>(dv[to]) * static_cast<double>(u[from]);
              dgate[slot] += term;
              size[slot] += std::abs(term);
            }
          }
        }
      }
    }
    expect_near_all(found.du, du, roundings<T>(1), 0, "du");
    for (std::size_t i = 0; i < dgate.size(); ++i) {  // a sum of J*R products
      ASSERT_NEAR(static_cast<double>(found.dgate[i]), dgate[i],
                  roundings<T>(static_cast<double>(s.parts * s.rank + 2), size[i]));
    }
  }
}

TEST(LowRankGate, BackwardIsTheDerivative) {
  for (Shape const& s : {Shape{3, 3, 2, 2, 3}, Shape{2, 1, 0, 2, 4}, Shape{2, 4, 4, 1, 2}}) {
    auto const u = normal<double>(s.tokens * s.width(), 1);
    auto const gate = normal<double>(s.tokens * s.active, 2);
    auto const c = normal<double>(s.tokens * s.width(), 4);
    auto const expert = distinct_experts(s.tokens, s.experts, s.active, 3);
    auto const found = run_backward<double>(s, c, u, expert, gate, 0.0);
    expect_gradient([&](auto const& x) { return dot(run_forward<double>(s, x, expert, gate), c); }, u,
                    found.du, "du");
    expect_gradient([&](auto const& x) { return dot(run_forward<double>(s, u, expert, x), c); }, gate,
                    found.dgate, "dgate");
  }
}

TYPED_TEST(LowRankGateTest, GatherAndScatter) {
  using T = TypeParam;
  for (Shape const& s : kShapes) {
    if (s.active == 0) continue;
    Index const part = s.parts * s.rank, slots = s.tokens * s.active;
    auto const u = normal<T>(s.tokens * s.width(), 1);
    auto const dy = normal<T>(slots * part, 2);
    auto const expert = distinct_experts(s.tokens, s.experts, s.active, 3);
    auto const sorted = sorted_slots(expert);

    auto const y = to_view(std::vector<T>(dy.size(), T(99)), slots, part);
    kernels::gather_low_rank<T>(Exec(), to_view(u, s.tokens, s.width()), to_view(expert, s.tokens, s.active),
                                to_view(sorted.order), T(3), y);
    auto const du = to_view(std::vector<T>(u.size(), T(99)), s.tokens, s.width());
    kernels::scatter_low_rank<T>(Exec(), to_view(dy, slots, part), to_view(expert, s.tokens, s.active),
                                 to_view(sorted.place), T(3), du);

    std::vector<double> expected_y, expected_du(u.size());
    for (Index p = 0; p < slots; ++p) {
      Index const slot = sorted.order[static_cast<std::size_t>(p)];
      Index const row = slot / s.active * s.width() + expert[static_cast<std::size_t>(slot)] * part;
      for (Index j = 0; j < part; ++j) {
        expected_y.push_back(3.0 * static_cast<double>(u[static_cast<std::size_t>(row + j)]));
        expected_du[static_cast<std::size_t>(row + j)] =
            3.0 * static_cast<double>(dy[static_cast<std::size_t>(p * part + j)]);
      }
    }
    expect_near_all(to_vector(y), expected_y, roundings<T>(1), 0, "y");
    expect_near_all(to_vector(du), expected_du, roundings<T>(1), 0, "du");
  }
}

TEST(LowRankGate, RefusesAnUngatedMixture) {
  View2<float> const u("u", 2, 8), v("v", 2, 8), gate("g", 2, 0);
  View2<int> const expert("e", 2, 0);
  EXPECT_THROW(kernels::low_rank_gate_forward<float>(Exec(), u, expert, gate, 1, 2, 1, v), std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
