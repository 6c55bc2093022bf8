// SPDX-License-Identifier: Apache-2.0
// Tests every training kernel on 16-bit storage against the same kernel in double, which the other files test
// against plain loops: same rounded inputs, so that what differs is single-precision arithmetic and one
// rounding of each result to 8 bits.
#include <gtest/gtest.h>

#include <stdexcept>

#include "unit/kernels/slots_support.hpp"
#include "unit/kernels/views.hpp"
#include "upit/kernels/adamw.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/kernels/dispatch.hpp"
#include "upit/kernels/dropout.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/kernels/embedding.hpp"
#include "upit/kernels/gather.hpp"
#include "upit/kernels/low_rank_gate.hpp"
#include "upit/kernels/rmsnorm.hpp"
#include "upit/kernels/rotary.hpp"
#include "upit/kernels/swiglu.hpp"

namespace upit::test {
namespace {

using B = bfloat16;

constexpr double kResult = 0x1p-8;  // relative: one rounding to 8 bits
double const kFloat = rounding<float>();

/// Random numbers that bfloat16 holds exactly, so that all types see the same.
Values rounded_values(Index n, int stream, double range = 2.0) {
  Values v = random_values(n, stream, range);
  for (double& x : v) x = static_cast<float>(B(x));
  return v;
}

template <class T>
View2<T> zeros(Index n, Index c) {
  return View2<T>("test", n, c);
}

std::vector<Shape> const kShapes = {{0, 4}, {1, 1}, {3, 7}, {5, 64}, {19, 130}, {2, 2500}};

TEST(Bfloat16Kernels, RmsNorm) {
  Exec const exec;
  for (auto const [N, C] : kShapes) {
    auto const x = rounded_values(N * C, 1), delta = rounded_values(N * C, 2), w = rounded_values(C, 3),
               dy = rounded_values(N * C, 4), start = rounded_values(N * C, 5);
    auto const run = [&, N = N, C = C]<class T>(T) {
      using R = Real<T>;
      std::vector<Values> out;
      View1<R> const rstd("rstd", N), dweight("dweight", C);
      auto const y = zeros<T>(N, C), sum = zeros<T>(N, C);
      kernels::rmsnorm_forward<T>(exec, make2<T>(N, C, x), make1<T>(w), R(1e-5), y, rstd);
      out.push_back(to_host(y));
      out.push_back(to_host(rstd));
      auto const dx = make2<T>(N, C, start);
      kernels::rmsnorm_backward<T>(exec, make2<T>(N, C, dy), make2<T>(N, C, x), make1<T>(w), rstd, dx);
      kernels::rmsnorm_backward_weight<T>(exec, make2<T>(N, C, dy), make2<T>(N, C, x), rstd, dweight);
      out.push_back(to_host(dx));
      out.push_back(to_host(dweight));
      kernels::add_rmsnorm_forward<T>(exec, make2<T>(N, C, x), make2<T>(N, C, delta), make1<T>(w), R(1e-5),
                                      sum, y, rstd);
      out.push_back(to_host(sum));
      out.push_back(to_host(y));
      return out;
    };
    auto const got = run(B()), want = run(double());
    double const c = static_cast<double>(C), most_rstd = 1.0 / std::sqrt(1e-5);
    double largest = 0;  // of rstd: 1 / sqrt(mean square) of a row, large for a row of one small element
    for (double const r : want[1]) largest = std::max(largest, std::min(r, most_rstd));
    expect_close(got[0], want[0], kResult + (c + 8) * kFloat);
    expect_close(got[1], want[1], (c + 8) * kFloat);
    double const r3 = std::pow(largest, 3);  // as in the test of the kernel itself
    expect_close(got[2], want[2], kResult, kFloat * ((c + 3) * 16 * r3 + 10 * (2 + 4 * largest + 16 * r3)));
    expect_close(got[3], want[3], 0.0, (N + 3) * kFloat * (2 + 4 * N * largest));
    expect_close(got[4], want[4], kResult + kFloat);
    // The norm is that of the rounded sum: one rounding more in every element, and in rstd.
    expect_close(got[5], want[5], 3 * kResult + (c + 8) * kFloat);
  }
}

TEST(Bfloat16Kernels, SwiGlu) {
  Exec const exec;
  for (auto const [N, F] : kShapes) {
    auto const gate_up = rounded_values(N * 2 * F, 1, 6.0), d = rounded_values(N * F, 2);
    auto const run = [&, N = N, F = F]<class T>(T) {
      auto const act = zeros<T>(N, F);
      auto const in_place = make2<T>(N, 2 * F, gate_up);
      kernels::swiglu_forward<T>(exec, in_place, act);
      kernels::swiglu_backward<T>(exec, make2<T>(N, F, d), in_place);
      return std::pair(to_host(act), to_host(in_place));
    };
    auto const got = run(B()), want = run(double());
    expect_close(got.first, want.first, kResult + 8 * kFloat);
    expect_close(got.second, want.second, kResult, 12 * (1 + 6) * 10 * kFloat);
  }
}

TEST(Bfloat16Kernels, Rotary) {
  Exec const exec;
  Index const S = 50;
  for (auto const [N, half] : {Shape{0, 2}, Shape{1, 1}, Shape{37, 32}, Shape{5, 3}}) {
    Index const heads = 3, columns = heads * 2 * half + 5;
    auto const x = rounded_values(N * columns, 1);
    std::vector<int> position;
    for (Index n = 0; n < N; ++n) position.push_back(static_cast<int>(n * 17 % S));
    auto const run = [&, N = N, half = half]<class T>(T) {
      View2<Real<T>> const cosine("cosine", S, half), sine("sine", S, half);
      kernels::rotary_table<Real<T>>(exec, 1e4, cosine, sine);
      auto const forward = make2<T>(N, columns, x), backward = make2<T>(N, columns, x);
      kernels::rotary_forward<T>(exec, make1<int>(position), cosine, sine, heads, forward);
      kernels::rotary_backward<T>(exec, make1<int>(position), cosine, sine, heads, backward);
      return std::pair(to_host(forward), to_host(backward));
    };
    auto const got = run(B()), want = run(double());
    expect_close(got.first, want.first, kResult, 10 * kFloat);
    expect_close(got.second, want.second, kResult, 10 * kFloat);
  }
}

TEST(Bfloat16Kernels, Elementwise) {
  Exec const exec;
  for (auto const [N, C] : kShapes) {
    auto const x = rounded_values(N * C, 1), y = rounded_values(N * C, 2), wide = random_values(N * C, 3);
    auto const sum = make2<B>(N, C, y), wide_sum = make2<B>(N, C, y), scaled = make2<B>(N, C, y);
    kernels::add<B>(exec, make2<B>(N, C, x), sum);
    kernels::add_wide<B>(exec, make2<float>(N, C, wide), wide_sum);
    kernels::scale<B>(exec, 0.3F, scaled);
    auto const narrow = zeros<B>(N, C);
    auto const back = zeros<float>(N, C);
    kernels::convert<B, float>(exec, make2<float>(N, C, wide), narrow);
    kernels::convert<float, B>(exec, narrow, back);
    auto const filled = zeros<B>(N, C);
    kernels::fill<B>(exec, filled, B(1.5F));
    exec.fence();
    Values want_sum = x, want_wide = wide, want_scaled = y, want_narrow = wide;
    for (std::size_t i = 0; i < x.size(); ++i) {
      want_sum[i] += y[i];
      want_wide[i] += y[i];
      want_scaled[i] *= static_cast<double>(0.3F);
      want_narrow[i] = static_cast<float>(B(wide[i]));
    }
    expect_close(to_host(sum), want_sum, kResult, 4 * kFloat);
    expect_close(to_host(wide_sum), want_wide, kResult, 4 * kFloat);
    expect_close(to_host(scaled), want_scaled, kResult + kFloat);
    EXPECT_EQ(to_host(narrow), want_narrow);
    EXPECT_EQ(to_host(back), want_narrow);
    EXPECT_EQ(to_host(filled), Values(x.size(), 1.5));
  }
}

TEST(Bfloat16Kernels, Embedding) {
  Exec const exec;
  Index const V = 5;
  for (auto const [N, C] : {Shape{0, 4}, Shape{1, 1}, Shape{7, 5}, Shape{70, 130}}) {
    std::vector<int> token;
    for (Index n = 0; n < N; ++n) token.push_back(static_cast<int>(n * n % V));
    auto const table = rounded_values(V * C, 1), dout = rounded_values(N * C, 2),
               start = random_values(V * C, 3);
    auto const run = [&, N = N, C = C]<class T>(T) {
      auto const out = zeros<T>(N, C);
      auto const dtable = make2<Real<T>>(V, C, start);
      kernels::embedding_forward<T>(exec, make1<int>(token), make2<T>(V, C, table), out);
      kernels::embedding_backward<T>(exec, make1<int>(token), make2<T>(N, C, dout), dtable);
      return std::pair(to_host(out), to_host(dtable));
    };
    auto const got = run(B()), want = run(double());
    EXPECT_EQ(got.first, want.first);
    expect_close(got.second, want.second, 0.0, N * kFloat * 2.0 * (N + 1));
  }
}

TEST(Bfloat16Kernels, GatherAndScatterRows) {
  Exec const exec;
  auto const x = rounded_values(9 * 33, 1);
  auto const row = make1<int>(std::vector<int>{8, 0, 3});
  auto const y = zeros<B>(3, 33), back = zeros<B>(9, 33);
  kernels::gather_rows<B>(exec, make2<B>(9, 33, x), row, y);
  kernels::scatter_rows<B>(exec, y, row, back);
  Values want;
  for (int const r : {8, 0, 3}) want.insert(want.end(), x.begin() + r * 33, x.begin() + (r + 1) * 33);
  EXPECT_EQ(to_host(y), want);
  Values scattered(x.size(), 0.0);
  for (int const r : {8, 0, 3}) std::copy_n(x.begin() + r * 33, 33, scattered.begin() + r * 33);
  EXPECT_EQ(to_host(back), scattered);
}

TEST(Bfloat16Kernels, AttentionDelta) {
  Exec const exec;
  for (auto const [N, D] : {Shape{0, 4}, Shape{1, 1}, Shape{7, 64}, Shape{3, 129}}) {
    Index const heads = 3;
    auto const out = rounded_values(N * heads * D, 1), dout = rounded_values(N * heads * D, 2);
    auto const run = [&, N = N, D = D]<class T>(T) {
      auto const delta = zeros<Real<T>>(N, heads);
      kernels::attention_delta<T>(exec, make2<T>(N, heads * D, out), make2<T>(N, heads * D, dout), heads,
                                  delta);
      return to_host(delta);
    };
    expect_close(run(B()), run(double()), 0.0, static_cast<double>((D + 1) * 4 * D) * kFloat);
  }
}

struct Slots {
  Index tokens, active, columns;
};
std::vector<Slots> const kSlots = {{0, 2, 8}, {1, 1, 1}, {5, 2, 3}, {33, 2, 65}, {17, 4, 600}, {4, 3, 0}};

// Four terms in T after each other would round four times: the sum is held in float.
TEST(Bfloat16Kernels, Slots) {
  Exec const exec;
  for (auto const& [N, K, C] : kSlots) {
    Index const S = N * K;
    auto const sorted = slots_test::sorted_slots(slots_test::distinct_experts(N, 5, K, 1));
    auto const place = make1<int>(sorted.place), order = make1<int>(sorted.order);
    auto const x = rounded_values(N * C, 1), y = rounded_values(S * C, 2), gate = random_values(S, 3),
               dout = rounded_values(N * C, 4);
    auto const run = [&, N = N, K = K, C = C]<class T>(T) {
      using R = Real<T>;
      std::vector<Values> out;
      auto const gathered = zeros<T>(S, C);
      kernels::gather_slots<T>(exec, make2<T>(N, C, x), order, K, gathered);
      out.push_back(to_host(gathered));
      for (bool const accumulate : {false, true}) {
        auto const sum = make2<T>(N, C, x), combined = make2<T>(N, C, x);
        kernels::sum_slots<T>(exec, make2<T>(S, C, y), place, K, sum, accumulate);
        kernels::combine_slots<T>(exec, make2<T>(S, C, y), make2<R>(N, K, gate), place, combined, accumulate);
        out.push_back(to_host(sum));
        out.push_back(to_host(combined));
      }
      auto const dy = zeros<T>(S, C);
      auto const dgate = make2<R>(N, K, Values(static_cast<std::size_t>(S), 0.5));
      kernels::combine_slots_backward<T>(exec, make2<T>(N, C, dout), make2<T>(S, C, y), make2<R>(N, K, gate),
                                         place, dy, dgate);
      out.push_back(to_host(dy));
      out.push_back(to_host(dgate));
      return out;
    };
    auto const got = run(B()), want = run(double());
    EXPECT_EQ(got[0], want[0]);
    for (std::size_t i = 1; i < 5; ++i) expect_close(got[i], want[i], kResult, 8 * 16 * kFloat);
    expect_close(got[5], want[5], kResult + kFloat);
    double const c = static_cast<double>(C);
    expect_close(got[6], want[6], 0.0, (c + 2) * (1 + 4 * c) * kFloat);
  }
}

TEST(Bfloat16Kernels, LowRank) {
  Exec const exec;
  struct Case {
    Index tokens, experts, active, parts, rank;
  };
  for (auto const [N, E, K, J, r] : {Case{0, 4, 2, 2, 8}, Case{1, 1, 0, 2, 8}, Case{7, 3, 2, 2, 3},
                                     Case{70, 8, 2, 2, 8}, Case{33, 8, 8, 1, 17}}) {
    Index const width = E * J * r, S = N * K;
    auto const chosen = slots_test::distinct_experts(N, E, K, 3);
    auto const sorted = slots_test::sorted_slots(chosen);
    auto const u = rounded_values(N * width, 1), dv = rounded_values(N * width, 2),
               gate = random_values(S, 3), dy = rounded_values(S * J * r, 4);
    auto const run = [&, N = N, E = E, K = K, J = J, r = r]<class T>(T) {
      using R = Real<T>;
      std::vector<Values> out;
      auto const expert = make2<int>(N, K, chosen);
      auto const v = zeros<T>(N, width), du = zeros<T>(N, width);
      auto const dgate = zeros<R>(N, K);
      kernels::low_rank_gate_forward<T>(exec, make2<T>(N, width, u), expert, make2<R>(N, K, gate), R(1.7), E,
                                        J, v);
      kernels::low_rank_gate_backward<T>(exec, make2<T>(N, width, dv), make2<T>(N, width, u), expert,
                                         make2<R>(N, K, gate), R(1.7), E, J, du, dgate);
      out = {to_host(v), to_host(du), to_host(dgate)};
      if (K == 0) return out;
      auto const y = zeros<T>(S, J * r), back = zeros<T>(N, width);
      kernels::gather_low_rank<T>(exec, make2<T>(N, width, u), expert, make1<int>(sorted.order), R(1.7), y);
      kernels::scatter_low_rank<T>(exec, make2<R>(S, J * r, dy), expert, make1<int>(sorted.place), R(1.7),
                                   back);
      out.push_back(to_host(y));
      out.push_back(to_host(back));
      return out;
    };
    auto const got = run(B()), want = run(double());
    double const terms = static_cast<double>(J * r);
    for (std::size_t i = 0; i < got.size(); ++i) {
      bool const real = i == 2;
      expect_close(got[i], want[i], real ? 0.0 : kResult + 4 * kFloat,
                   real ? (terms + 3) * 8 * terms * kFloat : 0.0);
    }
  }
}

TEST(Bfloat16Kernels, Dropout) {
  Exec const exec;
  RandomKey const key = random_key(1, "dropout", 2, 3);
  for (auto const [N, C] : {Shape{0, 4}, Shape{1, 3}, Shape{13, 65}, Shape{5, 200}}) {
    auto const x = rounded_values(N * C, 1), start = rounded_values(N * C, 2);
    std::vector<int> position;
    std::vector<std::uint64_t> sample;
    for (Index n = 0; n < N; ++n) position.push_back(static_cast<int>(n)), sample.push_back(7);
    auto const run = [&, N = N, C = C]<class T>(T) {
      auto const y = zeros<T>(N, C), dx = make2<T>(N, C, start);
      auto const drop = static_cast<Real<T>>(0.25);  // exact: both types draw the same mask
      kernels::dropout_forward<T>(exec, make2<T>(N, C, x), make1<std::uint64_t>(sample), make1<int>(position),
                                  key, drop, y);
      kernels::dropout_backward<T>(exec, make2<T>(N, C, x), make1<std::uint64_t>(sample),
                                   make1<int>(position), key, drop, dx);
      return std::pair(to_host(y), to_host(dx));
    };
    auto const got = run(B()), want = run(double());
    expect_close(got.first, want.first, kResult + 3 * kFloat);
    expect_close(got.second, want.second, kResult, 4 * 5 * kFloat);
  }
}

// The master is updated as fp32 weights are, bit for bit; the weight is it, rounded.
TEST(Bfloat16Kernels, AdamwUpdatesTheMaster) {
  Exec const exec;
  for (Index const n : {0, 1, 77, 4097}) {
    kernels::AdamwStep step;
    step.learning_rate = 1e-4;
    step.weight_decay = 0.1;
    auto const start = random_values(n, 1);
    auto const master = make1<float>(start), alone = make1<float>(start);
    View1<B> const weight("weight", n);
    View1<float> const m("m", n), v("v", n), m2("m", n), v2("v", n);
    for (step.step = 1; step.step <= 5; ++step.step) {
      auto const gradient = make1<float>(random_values(n, 10 + static_cast<int>(step.step)));
      kernels::adamw_rounded<B>(exec, gradient, master, weight, m, v, step);
      kernels::adamw<float>(exec, gradient, alone, m2, v2, step);
    }
    auto const masters = to_host(master);
    EXPECT_EQ(masters, to_host(alone));
    EXPECT_EQ(to_host(m), to_host(m2));
    EXPECT_EQ(to_host(v), to_host(v2));
    Values rounded;
    for (double const w : masters) rounded.push_back(static_cast<float>(B(w)));
    EXPECT_EQ(to_host(weight), rounded);
    if (n > 1) {
      EXPECT_NE(masters, rounded);  // five steps of 1e-4 would be lost in 8 bits
    }
  }
  View1<float> const four("x", 4);
  EXPECT_THROW(kernels::adamw_rounded<B>(exec, four, four, View1<B>("w", 3), four, four, {}),
               std::logic_error);
}

}  // namespace
}  // namespace upit::test
