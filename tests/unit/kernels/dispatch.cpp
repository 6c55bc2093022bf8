// SPDX-License-Identifier: Apache-2.0
// Tests the sorting of slots, gather, combine and sums against plain loops and central differences.
#include "upit/kernels/dispatch.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

void check_plan(std::vector<int> const& expert, Index active, Index experts) {
  Index const slots = static_cast<Index>(expert.size());
  auto const offset = to_view(std::vector<Index>(static_cast<std::size_t>(experts + 1), -7));
  auto const order = to_view(std::vector<int>(expert.size(), -7));
  auto const place = to_view(std::vector<int>(expert.size(), -7));
  kernels::dispatch_plan(Exec(), to_view(expert, slots / active, active), experts, offset, order, place);

  std::vector<Index> expected(static_cast<std::size_t>(experts + 1));
  for (int e : expert) ++expected[static_cast<std::size_t>(e + 1)];
  for (std::size_t e = 1; e < expected.size(); ++e) expected[e] += expected[e - 1];
  auto const sorted = sorted_slots(expert);
  ASSERT_EQ(to_vector(offset), expected) << slots << " slots, " << experts << " experts";
  ASSERT_EQ(to_vector(order), sorted.order) << slots << " slots, " << experts << " experts";
  ASSERT_EQ(to_vector(place), sorted.place) << slots << " slots, " << experts << " experts";
}

TEST(Dispatch, PlanIsAStableSort) {
  for (Index const tokens : {0, 1, 7, 127, 128, 129, 255, 256, 257, 383, 2501}) {
    for (Index const experts : {1, 3, 8, 300}) {
      for (Index const active : {Index{1}, std::min<Index>(2, experts)}) {
        check_plan(distinct_experts(tokens, experts, active, 1), active, experts);
      }
    }
  }
}

TEST(Dispatch, PlanWithEmptyExperts) {
  for (Index const tokens : {5, 700}) {
    for (int const only : {0, 3, 7})
      check_plan(std::vector<int>(static_cast<std::size_t>(tokens), only), 1, 8);
  }
}

struct Shape {
  Index tokens, active, columns;
  Index slots() const { return tokens * active; }
};

std::vector<Shape> const kShapes = {{0, 2, 8}, {1, 1, 1}, {5, 2, 3}, {4, 3, 0}, {33, 2, 65}, {70, 4, 200}};

std::size_t at(Index row, Index columns, Index c) { return static_cast<std::size_t>(row * columns + c); }

template <class T>
class DispatchTest : public ::testing::Test {};
TYPED_TEST_SUITE(DispatchTest, Reals);

TYPED_TEST(DispatchTest, GatherAndSum) {
  using T = TypeParam;
  for (Shape const& s : kShapes) {
    auto const sorted = sorted_slots(distinct_experts(s.tokens, 5, s.active, 1));
    auto const x = normal<T>(s.tokens * s.columns, 2);
    auto const y =
        to_view(std::vector<T>(static_cast<std::size_t>(s.slots() * s.columns), T(99)), s.slots(), s.columns);
    kernels::gather_slots<T>(Exec(), to_view(x, s.tokens, s.columns), to_view(sorted.order), s.active, y);
    auto const gathered = to_vector(y);
    for (Index p = 0; p < s.slots(); ++p) {
      Index const n = sorted.order[static_cast<std::size_t>(p)] / s.active;
      for (Index c = 0; c < s.columns; ++c) ASSERT_EQ(gathered[at(p, s.columns, c)], x[at(n, s.columns, c)]);
    }

    auto const z = normal<T>(s.slots() * s.columns, 3);
    for (bool const accumulate : {false, true}) {
      auto const out = to_view(x, s.tokens, s.columns);
      kernels::sum_slots<T>(Exec(), to_view(z, s.slots(), s.columns), to_view(sorted.place), s.active, out,
                            accumulate);
      std::vector<double> expected(x.size());
      for (Index n = 0; n < s.tokens; ++n) {
        for (Index c = 0; c < s.columns; ++c) {
          double sum = accumulate ? static_cast<double>(x[at(n, s.columns, c)]) : 0.0;
          for (Index k = 0; k < s.active; ++k) {
            Index const p = sorted.place[static_cast<std::size_t>(n * s.active + k)];
            sum += static_cast<double>(z[at(p, s.columns, c)]);
          }
          expected[at(n, s.columns, c)] = sum;
        }
      }
      // up to five terms of size below 5
      expect_near_all(to_vector(out), expected, 0, roundings<T>(5, 10), "sum");
    }
  }
}

template <class T>
std::vector<T> combine(Shape const& s, std::vector<T> const& y, std::vector<T> const& gate,
                       std::vector<int> const& place, std::vector<T> const& before, bool accumulate) {
  auto const out = to_view(before, s.tokens, s.columns);
  kernels::combine_slots<T>(Exec(), to_view(y, s.slots(), s.columns), to_view(gate, s.tokens, s.active),
                            to_view(place), out, accumulate);
  return to_vector(out);
}

TYPED_TEST(DispatchTest, CombineAndBackward) {
  using T = TypeParam;
  for (Shape const& s : kShapes) {
    auto const sorted = sorted_slots(distinct_experts(s.tokens, 5, s.active, 1));
    auto const y = normal<T>(s.slots() * s.columns, 2);
    auto const gate = normal<T>(s.slots(), 3);
    auto const before = normal<T>(s.tokens * s.columns, 4);
    for (bool const accumulate : {false, true}) {
      std::vector<double> expected = to_double(before);
      for (Index n = 0; n < s.tokens; ++n) {
        for (Index c = 0; c < s.columns; ++c) {
          double& sum = expected[at(n, s.columns, c)];
          if (!accumulate) sum = 0;
          for (Index k = 0; k < s.active; ++k) {
            auto const slot = static_cast<std::size_t>(n * s.active + k);
            sum += static_cast<double>(gate[slot]) *
                   static_cast<double>(y[at(sorted.place[slot], s.columns, c)]);
          }
        }
      }
      // up to five terms of size below 16
      expect_near_all(combine<T>(s, y, gate, sorted.place, before, accumulate), expected, 0,
                      roundings<T>(8, 16), "combine");
    }

    auto const dout = normal<T>(s.tokens * s.columns, 5);
    for (bool const in_place : {false, true}) {
      auto const y_view = to_view(y, s.slots(), s.columns);
      auto const dy = in_place ? y_view : to_view(std::vector<T>(y.size(), T(99)), s.slots(), s.columns);
      auto const dgate = to_view(std::vector<T>(gate.size(), T(0.5)), s.tokens, s.active);
      kernels::combine_slots_backward<T>(Exec(), to_view(dout, s.tokens, s.columns), y_view,
                                         to_view(gate, s.tokens, s.active), to_view(sorted.place), dy, dgate);
      std::vector<double> expected_dy(y.size()), expected_dgate(gate.size(), 0.5);
      for (std::size_t slot = 0; slot < gate.size(); ++slot) {
        Index const n = static_cast<Index>(slot) / s.active;
        for (Index c = 0; c < s.columns; ++c) {
          double const gradient = static_cast<double>(dout[at(n, s.columns, c)]);
          auto const i = at(sorted.place[slot], s.columns, c);
          expected_dy[i] = static_cast<double>(gate[slot]) * gradient;
          expected_dgate[slot] += gradient * static_cast<double>(y[i]);
        }
      }
      expect_near_all(to_vector(dy), expected_dy, roundings<T>(1), 0, "dy");
      // a sum of C products of size about one, worst case
      expect_near_all(to_vector(dgate), expected_dgate, 0,
                      roundings<T>(static_cast<double>(s.columns + 2), 10.0 + static_cast<double>(s.columns)),
                      "dgate");
    }
  }
}

TEST(Dispatch, CombineBackwardIsTheDerivative) {
  Shape const s{4, 3, 5};
  auto const sorted = sorted_slots(distinct_experts(s.tokens, 6, s.active, 1));
  auto const y = normal<double>(s.slots() * s.columns, 2);
  auto const gate = normal<double>(s.slots(), 3);
  auto const c = normal<double>(s.tokens * s.columns, 4);
  std::vector<double> const zero(c.size());
  View2<double> const dy("dy", s.slots(), s.columns), dgate("dg", s.tokens, s.active);
  kernels::combine_slots_backward<double>(Exec(), to_view(c, s.tokens, s.columns),
                                          to_view(y, s.slots(), s.columns), to_view(gate, s.tokens, s.active),
                                          to_view(sorted.place), dy, dgate);
  expect_gradient(
      [&](auto const& x) { return dot(combine<double>(s, x, gate, sorted.place, zero, false), c); }, y,
      to_vector(dy), "dy");
  expect_gradient([&](auto const& x) { return dot(combine<double>(s, y, x, sorted.place, zero, false), c); },
                  gate, to_vector(dgate), "dgate");
}

TEST(Dispatch, RefusesWrongShapes) {
  View2<int> const expert("e", 4, 2);
  View1<int> const eight("a", 8), seven("b", 7);
  EXPECT_THROW(kernels::dispatch_plan(Exec(), expert, 3, View1<Index>("o", 3), eight, eight),
               std::logic_error);
  EXPECT_THROW(kernels::dispatch_plan(Exec(), expert, 3, View1<Index>("o", 4), eight, seven),
               std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
