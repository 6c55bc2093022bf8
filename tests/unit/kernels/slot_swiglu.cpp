// SPDX-License-Identifier: Apache-2.0
// Tests the activation of sorted slots against plain loops and central differences.
#include "upit/kernels/slot_swiglu.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

struct Shape {
  Index tokens, active, width;
  Index slots() const { return tokens * active; }
};

std::vector<Shape> const kShapes = {{0, 2, 8}, {1, 1, 1}, {5, 2, 3}, {3, 2, 0}, {33, 2, 65}, {9, 4, 200}};

template <class T>
std::vector<T> forward(Shape const& s, std::vector<T> const& base, std::vector<T> const& delta,
                       std::vector<int> const& order) {
  View2<T> const act("a", s.slots(), s.width);
  kernels::slot_swiglu_forward<T>(Exec(), to_view(base, s.tokens, 2 * s.width),
                                  to_view(delta, s.slots(), 2 * s.width), to_view(order), s.active, act);
  return to_vector(act);
}

template <class T>
std::vector<T> backward(Shape const& s, std::vector<T> const& dact, std::vector<T> const& base,
                        std::vector<T> const& delta, std::vector<int> const& order) {
  auto const gradient = to_view(delta, s.slots(), 2 * s.width);
  kernels::slot_swiglu_backward<T>(Exec(), to_view(dact, s.slots(), s.width),
                                   to_view(base, s.tokens, 2 * s.width), to_view(order), s.active, gradient);
  return to_vector(gradient);
}

template <class T>
class SlotSwigluTest : public ::testing::Test {};
TYPED_TEST_SUITE(SlotSwigluTest, Reals);

TYPED_TEST(SlotSwigluTest, ForwardAndBackward) {
  using T = TypeParam;
  for (Shape const& s : kShapes) {
    auto const sorted = sorted_slots(distinct_experts(s.tokens, 5, s.active, 1));
    auto const base = normal<T>(s.tokens * 2 * s.width, 2);
    auto const delta = normal<T>(s.slots() * 2 * s.width, 3);
    auto const dact = normal<T>(s.slots() * s.width, 4);
    std::vector<double> act, gradient(delta.size());
    for (Index p = 0; p < s.slots(); ++p) {
      Index const n = sorted.order[static_cast<std::size_t>(p)] / s.active;
      for (Index f = 0; f < s.width; ++f) {
        auto const sum = [&](Index c) {
          return static_cast<double>(base[static_cast<std::size_t>(n * 2 * s.width + c)]) +
                 static_cast<double>(delta[static_cast<std::size_t>(p * 2 * s.width + c)]);
        };
        double const gate = sum(f), up = sum(s.width + f), sigmoid = 1 / (1 + std::exp(-gate));
        double const d = static_cast<double>(dact[static_cast<std::size_t>(p * s.width + f)]);
        act.push_back(gate * sigmoid * up);
        gradient[static_cast<std::size_t>(p * 2 * s.width + f)] =
            d * up * (sigmoid + gate * sigmoid * (1 - sigmoid));
        gradient[static_cast<std::size_t>(p * 2 * s.width + s.width + f)] = d * gate * sigmoid;
      }
    }
    // some ten roundings of numbers below 6 * 6 (forward), times a gradient below 5
    expect_near_all(forward<T>(s, base, delta, sorted.order), act, 0, roundings<T>(10, 36), "act");
    expect_near_all(backward<T>(s, dact, base, delta, sorted.order), gradient, 0, roundings<T>(10, 180),
                    "gradient");
  }
}

TYPED_TEST(SlotSwigluTest, FarFromZero) {
  using T = TypeParam;
  std::vector<T> const base = {1000, -1000, 100, -100, 2, 2, 2, 2};  // F = 4
  std::vector<T> const zero(8);
  auto const act = forward<T>({1, 1, 4}, base, zero, {0});
  auto const gradient = backward<T>({1, 1, 4}, {1, 1, 1, 1}, base, zero, {0});
  expect_near_all(act, {2000, 0, 200, 0}, roundings<T>(4), 1e-30, "act");
  expect_near_all(gradient, {2, 0, 2, 0, 1000, 0, 100, 0}, roundings<T>(4), 1e-30, "gradient");
}

TEST(SlotSwiglu, BackwardIsTheDerivative) {
  Shape const s{3, 2, 4};
  auto const sorted = sorted_slots(distinct_experts(s.tokens, 4, s.active, 1));
  auto const base = normal<double>(s.tokens * 2 * s.width, 2);
  auto const delta = normal<double>(s.slots() * 2 * s.width, 3);
  auto const c = normal<double>(s.slots() * s.width, 4);
  auto const found = backward<double>(s, c, base, delta, sorted.order);
  expect_gradient([&](auto const& x) { return dot(forward<double>(s, base, x, sorted.order), c); }, delta,
                  found, "delta");
  // base's gradient is the sum over the slots of its token
  std::vector<double> dbase(base.size());
  for (std::size_t p = 0; p < sorted.order.size(); ++p) {
    for (Index i = 0; i < 2 * s.width; ++i) {
      dbase[static_cast<std::size_t>(sorted.order[p] / s.active * 2 * s.width + i)] +=
          found[p * static_cast<std::size_t>(2 * s.width) + static_cast<std::size_t>(i)];
    }
  }
  expect_gradient([&](auto const& x) { return dot(forward<double>(s, x, delta, sorted.order), c); }, base,
                  dbase, "base");
}

}  // namespace
}  // namespace upit::slots_test
