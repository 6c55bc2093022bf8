// SPDX-License-Identifier: Apache-2.0
// Tests what LoRA experts add between gate and down against plain loops and central differences.
#include "upit/kernels/slot_ffn.hpp"

#include "unit/kernels/slots_support.hpp"
#include "upit/kernels/row.hpp"

namespace upit::slots_test {
namespace {

struct Shape {
  Index tokens, experts, active, rank, width;
  Index slots() const { return tokens * active; }
};

// Ranks around a group of eight, and two groups with two slots at once; more tokens than a block, widths
// beyond a stretch; experts without a slot.
std::vector<Shape> const kShapes = {
    {0, 3, 2, 8, 5},    {1, 1, 1, 1, 1},     {5, 4, 2, 4, 0},    {7, 4, 2, 4, 33},   {70, 5, 3, 5, 65},
    {33, 8, 2, 8, 257}, {3, 40, 1, 16, 600}, {40, 3, 3, 17, 31}, {65, 2, 2, 9, 513}, {40, 3, 2, 16, 200}};

template <class T>
struct Problem {
  Shape shape;
  std::vector<T> gate_b, up_b, down_a, low, mask, base, dact, dlow2;
  std::vector<Real<T>> gate, dgate;
  std::vector<int> expert;
  Order sorted;
  std::vector<Index> offset;
};

/// Matrices of experts are as small as keeps every sum of order one, so that roundings can be counted.
template <class T>
Problem<T> problem(Shape const& s, bool masked) {
  auto const numbers = [](Index n, int seed, double factor) {
    std::vector<T> x;
    for (double v : normal<double>(n, seed)) x.push_back(T(factor * v));
    return x;
  };
  double const r = 0.7 / std::sqrt(static_cast<double>(s.rank));
  Index const stack = s.experts * s.rank * s.width;
  Problem<T> p;
  p.shape = s;
  p.gate_b = numbers(stack, 1, r);
  p.up_b = numbers(stack, 2, r);
  p.down_a = numbers(stack, 3, r);
  p.low = numbers(s.slots() * 2 * s.rank, 4, 1);
  p.base = numbers(s.tokens * 2 * s.width, 5, 1);
  p.dact = numbers(s.tokens * s.width, 6, 1);
  p.dlow2 = numbers(s.slots() * s.rank, 7, 1);
  p.gate = normal<Real<T>>(s.slots(), 8);
  p.dgate = normal<Real<T>>(s.slots(), 9);
  if (masked) {
    for (double v : normal<double>(s.tokens * s.width, 10)) p.mask.push_back(v > -0.5 ? T(1) : T(0));
  }
  p.expert = distinct_experts(s.tokens, s.experts, s.active, 11);
  p.sorted = sorted_slots(p.expert);
  p.offset.resize(at(s.experts + 1));
  for (int e : p.expert) ++p.offset[at(e + 1)];
  for (Index e = 0; e < s.experts; ++e) p.offset[at(e + 1)] += p.offset[at(e)];
  return p;
}

struct Result {
  std::vector<double> act, low2, dbase, slot_act, dslot, dlow, dgate;
};

template <class V>
std::vector<double> doubles(V const& view) {
  auto const x = to_vector(view);
  std::vector<double> out;
  for (auto const v : x) out.push_back(static_cast<double>(v));
  return out;
}

template <class T>
View3<T> stack(std::vector<T> const& x, Shape const& s) {
  View3<T> const view("stack", s.experts, s.rank, s.width);
  Kokkos::deep_copy(view, Kokkos::View<T const***, Kokkos::LayoutRight, Kokkos::HostSpace>(
                              x.data(), s.experts, s.rank, s.width));
  return view;
}

/// `teams`: the body of devices, whatever this build is for.
template <class T>
Result run(Problem<T> const& p, bool teams = false) {
  using R = Real<T>;
  Shape const& s = p.shape;
  Index const S = s.slots(), N = s.tokens, F = s.width;
  kernels::SlotFfn<T> const slots = {stack(p.gate_b, s),
                                     stack(p.up_b, s),
                                     stack(p.down_a, s),
                                     to_view(p.low, S, 2 * s.rank),
                                     to_view(p.expert, N, s.active),
                                     to_view(p.gate, N, s.active),
                                     to_view(p.offset),
                                     to_view(p.sorted.order),
                                     to_view(p.sorted.place),
                                     p.mask.empty() ? View2<T>() : to_view(p.mask, N, F)};
  auto const base = to_view(p.base, N, 2 * F);
  View2<T> const act("act", N, F), slot_act("slot_act", S, F), dslot("dslot", S, 2 * F);
  View2<R> const low2("low2", S, s.rank), dlow("dlow", S, 2 * s.rank);
  auto const dgate = to_view(p.dgate, N, s.active);
  for (auto const& sum : {low2, dlow}) Kokkos::deep_copy(sum, R(99));
  auto const forward = teams ? kernels::slot_ffn_forward_by_teams<T> : kernels::slot_ffn_forward<T>;
  auto const backward = teams ? kernels::slot_ffn_backward_by_teams<T> : kernels::slot_ffn_backward<T>;
  forward(Exec(), slots, base, act, slot_act, low2);
  backward(Exec(), slots, to_view(p.dact, N, F), to_view(p.dlow2, S, s.rank), base, slot_act, dslot, dlow,
           dgate);
  return {doubles(act),   doubles(low2), doubles(base), doubles(slot_act),
          doubles(dslot), doubles(dlow), doubles(dgate)};
}

/// The formulas of the header in double.
template <class T>
Result plain(Problem<T> const& p) {
  Shape const& s = p.shape;
  Index const S = s.slots(), N = s.tokens, F = s.width, R = s.rank;
  Result o;
  o.act.resize(at(N * F)), o.low2.resize(at(S * R)), o.dbase.resize(at(N * 2 * F));
  o.slot_act.resize(at(S * F)), o.dslot.resize(at(S * 2 * F)), o.dlow.resize(at(S * 2 * R));
  o.dgate.assign(p.dgate.begin(), p.dgate.end());
  auto const value = [](auto const& x, Index i) { return static_cast<double>(x[at(i)]); };
  for (Index slot = 0; slot < S; ++slot) {
    Index const n = slot / s.active, e = p.expert[at(slot)], q = p.sorted.place[at(slot)];
    for (Index f = 0; f < F; ++f) {
      double gate = value(p.base, n * 2 * F + f), up = value(p.base, n * 2 * F + F + f), through_a = 0;
      for (Index r = 0; r < R; ++r) {
        Index const b = (e * R + r) * F + f;
        gate += value(p.low, q * 2 * R + r) * value(p.gate_b, b);
        up += value(p.low, q * 2 * R + R + r) * value(p.up_b, b);
        through_a += value(p.dlow2, q * R + r) * value(p.down_a, b);
      }
      double const kept = p.mask.empty() ? 1.0 : value(p.mask, n * F + f);
      double const sigmoid = 1 / (1 + std::exp(-gate)), a = gate * sigmoid * up;
      double const g = value(p.gate, slot), dact = value(p.dact, n * F + f);
      double const da = g * dact + kept * through_a;
      double const dgate = da * up * (sigmoid + gate * sigmoid * (1 - sigmoid)), dup = da * gate * sigmoid;
      o.act[at(n * F + f)] += g * a;
      o.slot_act[at(q * F + f)] = kept * a;
      o.dslot[at(q * 2 * F + f)] = dgate;
      o.dslot[at(q * 2 * F + F + f)] = dup;
      o.dbase[at(n * 2 * F + f)] += dgate;
      o.dbase[at(n * 2 * F + F + f)] += dup;
      o.dgate[at(slot)] += dact * a;
      for (Index r = 0; r < R; ++r) {
        Index const b = (e * R + r) * F + f;
        o.low2[at(q * R + r)] += kept * a * value(p.down_a, b);
        o.dlow[at(q * 2 * R + r)] += dgate * value(p.gate_b, b);
        o.dlow[at(q * 2 * R + R + r)] += dup * value(p.up_b, b);
      }
    }
  }
  return o;
}

double largest(std::vector<double> const& x) {
  double most = 0;
  for (double v : x) most = std::max(most, std::abs(v));
  return most;
}

template <class T>
class SlotFfnTest : public ::testing::Test {};
using Stored = ::testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(SlotFfnTest, Stored);

template <class T>
void expect_plain_results(bool teams) {
  using R = Real<T>;
  for (Shape const& s : kShapes) {
    for (bool const masked : {false, true}) {
      auto const p = problem<T>(s, masked);
      Result const found = run(p, teams), expected = plain(p);
      // Elements: some R + 20 roundings of Real<T>, of numbers below 8 times the largest result of the kind,
      // and one of T, 2^-8 of the result in 16 bits. Sums over columns: F terms of that error, each below 5
      // times the largest element, that add up like a walk, times 5 for the worst of many; teams round the
      // terms to T.
      double const stored = std::is_same_v<T, R> ? 0.0 : 0x1p-8;
      double const terms_stored = teams || !kernels::kHostRows ? stored : 0.0;
      double const real = roundings<R>(8 * (static_cast<double>(s.rank) + 20));
      double const walk = 25 * std::sqrt(static_cast<double>(s.width));
      auto const elements = [&](auto const& got, auto const& want, char const* what) {
        expect_near_all(got, want, stored, real * (1 + largest(want)), what);
      };
      auto const sums = [&](auto const& got, auto const& want, double element, char const* what) {
        expect_near_all(got, want, roundings<R>(1),
                        walk * (real + terms_stored) * (1 + element) + real * largest(want), what);
      };
      elements(found.act, expected.act, "act");
      elements(found.slot_act, expected.slot_act, "slot_act");
      elements(found.dslot, expected.dslot, "dslot");
      // K terms, which teams read back rounded
      expect_near_all(found.dbase, expected.dbase, stored,
                      (real + static_cast<double>(s.active) * terms_stored) * (1 + largest(expected.dslot)),
                      "dbase");
      sums(found.low2, expected.low2, largest(expected.slot_act), "low2");
      sums(found.dlow, expected.dlow, largest(expected.dslot), "dlow");
      sums(found.dgate, expected.dgate, largest(expected.slot_act), "dgate");
    }
  }
}

TYPED_TEST(SlotFfnTest, ForwardAndBackward) { expect_plain_results<TypeParam>(false); }

TYPED_TEST(SlotFfnTest, ForwardAndBackwardByTeams) { expect_plain_results<TypeParam>(true); }

template <class T>
void expect_limits_far_from_zero(bool teams) {
  Problem<T> p = problem<T>({1, 1, 1, 1, 4}, false);
  p.base = {T(1000), T(-1000), T(100), T(-100), T(2), T(2), T(2), T(2)};
  p.gate_b = p.up_b = p.down_a = std::vector<T>(4, T(0));
  p.gate = {1};
  p.dact = std::vector<T>(4, T(1));
  Result const found = run(p, teams);
  double const tolerance = std::is_same_v<T, Real<T>> ? roundings<T>(4) : 0x1p-7;
  expect_near_all(found.act, {2000, 0, 200, 0}, tolerance, 1e-30, "act");
  expect_near_all(found.dbase, {2, 0, 2, 0, 1000, 0, 100, 0}, tolerance, 1e-30, "dbase");
}

TYPED_TEST(SlotFfnTest, FarFromZero) { expect_limits_far_from_zero<TypeParam>(false); }

TYPED_TEST(SlotFfnTest, FarFromZeroByTeams) { expect_limits_far_from_zero<TypeParam>(true); }

void expect_derivative(bool teams) {
  for (bool const masked : {false, true}) {
    auto const p = problem<double>({3, 4, 2, 9, 5}, masked);
    Result found = run(p, teams);
    for (std::size_t i = 0; i < p.dgate.size(); ++i) found.dgate[i] -= p.dgate[i];
    auto const check = [&](std::vector<double> Problem<double>::*input, std::vector<double> const& gradient,
                           char const* what) {
      auto const loss = [&](std::vector<double> const& x) {
        Problem<double> changed = p;
        changed.*input = x;
        Result const out = run(changed, teams);
        return dot(out.act, p.dact) + dot(out.low2, p.dlow2);
      };
      expect_gradient(loss, p.*input, gradient, what);
    };
    check(&Problem<double>::base, found.dbase, "base");
    check(&Problem<double>::low, found.dlow, "low");
    check(&Problem<double>::gate, found.dgate, "gate");
  }
}

TEST(SlotFfn, BackwardIsTheDerivative) { expect_derivative(false); }

TEST(SlotFfn, BackwardIsTheDerivativeByTeams) { expect_derivative(true); }

TEST(SlotFfn, RefusesMatricesOfAnotherShape) {
  auto p = problem<float>({2, 2, 1, 3, 4}, false);
  kernels::SlotFfn<float> const slots = {stack(p.gate_b, p.shape), View3<float>("short", 2, 2, 4),
                                         stack(p.down_a, p.shape), to_view(p.low, 2, 6),
                                         to_view(p.expert, 2, 1),  to_view(p.gate, 2, 1),
                                         to_view(p.offset),        to_view(p.sorted.order),
                                         to_view(p.sorted.place),  View2<float>()};
  View2<float> const act("act", 2, 4), low2("low2", 2, 3);
  EXPECT_THROW(kernels::slot_ffn_forward<float>(Exec(), slots, to_view(p.base, 2, 8), act, act, low2),
               std::logic_error);
}

TEST(SlotFfn, RefusesRankZero) {
  auto p = problem<float>({2, 2, 1, 3, 4}, false);
  View3<float> const none("none", 2, 0, 4);
  kernels::SlotFfn<float> const slots = {none,
                                         none,
                                         none,
                                         View2<float>("low", 2, 0),
                                         to_view(p.expert, 2, 1),
                                         to_view(p.gate, 2, 1),
                                         to_view(p.offset),
                                         to_view(p.sorted.order),
                                         to_view(p.sorted.place),
                                         View2<float>()};
  View2<float> const act("act", 2, 4), low2("low2", 2, 0);
  EXPECT_THROW(kernels::slot_ffn_forward<float>(Exec(), slots, to_view(p.base, 2, 8), act, act, low2),
               std::logic_error);
}

TEST(SlotFfn, TeamsRefuseToGoForwardWithoutSlotAct) {
  auto p = problem<float>({2, 2, 1, 3, 4}, false);
  kernels::SlotFfn<float> const slots = {
      stack(p.gate_b, p.shape), stack(p.up_b, p.shape), stack(p.down_a, p.shape), to_view(p.low, 2, 6),
      to_view(p.expert, 2, 1),  to_view(p.gate, 2, 1),  to_view(p.offset),        to_view(p.sorted.order),
      to_view(p.sorted.place),  View2<float>()};
  View2<float> const act("act", 2, 4), low2("low2", 2, 3), none("none", 0, 4);
  auto const base = to_view(p.base, 2, 8);
  EXPECT_THROW(kernels::slot_ffn_forward_by_teams<float>(Exec(), slots, base, act, none, low2),
               std::logic_error);
  auto const forward = [&] { kernels::slot_ffn_forward<float>(Exec(), slots, base, act, none, low2); };
  if (kernels::kSlotFfnForwardKeepsAct) {
    EXPECT_THROW(forward(), std::logic_error);
  } else {
    EXPECT_NO_THROW(forward());
  }
}

}  // namespace
}  // namespace upit::slots_test
