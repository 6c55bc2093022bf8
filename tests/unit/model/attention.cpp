// SPDX-License-Identifier: Apache-2.0
// Owns the tests of both forms of attention, the hosts' and the devices', which runs in any space: against
// plain loops in double, forward and backward.
#include "upit/model/attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "unit/kernels/views.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/kernels/row.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/model/blocked_attention.hpp"

namespace upit::test {
namespace {

/// Attention of one batch by plain loops in double. Rows of qkv: q heads, k heads, v heads.
struct PlainAttention {
  ModelConfig m;
  std::vector<Index> start;
  Values qkv;
  std::vector<Index> queries;  // that are looked at; others have no gradient

  Index ld() const { return (m.heads + 2 * m.kv_heads) * m.head_width; }
  Index tokens() const { return start.back(); }
  Index group(Index head) const { return head / (m.heads / m.kv_heads); }
  double const* q(Index n, Index h) const { return qkv.data() + n * ld() + h * m.head_width; }
  double const* k(Index n, Index h) const { return q(n, m.heads + group(h)); }
  double const* v(Index n, Index h) const { return q(n, m.heads + m.kv_heads + group(h)); }
  double dot_of(double const* a, double const* b) const {
    return std::inner_product(a, a + m.head_width, b, 0.0);
  }
  Index first_of(Index n) const {
    Index first = 0;
    for (Index const s : start) first = s <= n ? s : first;
    return first;
  }

  /// Probabilities of query n over the keys [first_of(n), n], and the log of their sum before division.
  Values probabilities(Index n, Index h, double* lse = nullptr) const {
    Values p;
    for (Index j = first_of(n); j <= n; ++j) {
      p.push_back(dot_of(q(n, h), k(j, h)) / std::sqrt(static_cast<double>(m.head_width)));
    }
    double const most = *std::max_element(p.begin(), p.end());
    double sum = 0.0;
    for (double& x : p) sum += x = std::exp(x - most);
    for (double& x : p) x /= sum;
    if (lse != nullptr) *lse = most + std::log(sum);
    return p;
  }

  void forward(Values& out, Values& lse) const {
    Index const H = m.heads, D = m.head_width;
    out.assign(at(tokens() * H * D), 0.0);
    lse.assign(at(tokens() * H), 0.0);
    for (Index const n : queries)
      for (Index h = 0; h < H; ++h) {
        Values const p = probabilities(n, h, &lse[at(n * H + h)]);
        for (Index j = 0; j < std::ssize(p); ++j)
          for (Index i = 0; i < D; ++i) out[at((n * H + h) * D + i)] += p[at(j)] * v(first_of(n) + j, h)[i];
      }
  }

  Values backward(Values const& dout) const {
    Index const H = m.heads, D = m.head_width;
    double const scale = 1.0 / std::sqrt(static_cast<double>(D));
    Values d(qkv.size(), 0.0);
    auto const place = [&](double const* in) { return d.data() + (in - qkv.data()); };
    for (Index const n : queries)
      for (Index h = 0; h < H; ++h) {
        double const* const g = dout.data() + (n * H + h) * D;
        Values const p = probabilities(n, h);
        Values dp;
        double delta = 0.0;
        for (Index j = 0; j < std::ssize(p); ++j) {
          dp.push_back(dot_of(g, v(first_of(n) + j, h)));
          delta += p[at(j)] * dp.back();
        }
        for (Index j = 0; j < std::ssize(p); ++j) {
          Index const key = first_of(n) + j;
          double const ds = scale * p[at(j)] * (dp[at(j)] - delta);
          for (Index i = 0; i < D; ++i) {
            place(v(key, h))[i] += p[at(j)] * g[i];
            place(q(n, h))[i] += ds * k(key, h)[i];
            place(k(key, h))[i] += ds * q(n, h)[i];
          }
        }
      }
    return d;
  }
};

/// What is left of values in T.
template <class T>
Values stored(Values values) {
  for (double& v : values) v = static_cast<double>(static_cast<T>(v));
  return values;
}

/// |a - b| / |b|, 2-norms.
double relative_distance(Values const& a, Values const& b) {
  double difference = 0.0, size = 0.0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a.at(i) - b[i]) * (a.at(i) - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}

struct Case {
  Index heads, kv_heads, head_width;
  std::vector<Index> lengths;
  Index block;  // of queries, in the devices' form

  Index longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
};
// Several blocks, a last one that is not full, samples of one token, shared keys, every width in use; the
// last case has more keys than one block of the hosts' form.
std::vector<Case> const kCases = {{1, 1, 2, {1}, 4},         {4, 4, 16, {5, 1, 12, 8}, 4},
                                  {4, 2, 32, {37}, 16},      {6, 1, 8, {9, 30, 3}, 8},
                                  {8, 2, 64, {33, 31}, 256}, {2, 1, 128, {21, 2}, 8},
                                  {2, 2, 256, {19}, 7},      {2, 1, 16, {70, 1100}, 64}};

ModelConfig shapes(Case const& c) {
  ModelConfig m;
  m.heads = c.heads, m.kv_heads = c.kv_heads, m.head_width = c.head_width;
  return m;
}

/// The elements of these rows.
Values of_rows(Values const& all, std::vector<Index> const& rows, Index columns) {
  Values out;
  for (Index const r : rows)
    for (Index i = 0; i < columns; ++i) out.push_back(all.at(at(r * columns + i)));
  return out;
}

/// Forward and backward of `attention`, an Attention<T> or a BlockedAttention<T>, against plain loops. With
/// `queries` only those are looked at, and only they have a gradient: loops over all would take minutes.
template <class T, class Form>
void expect_plain_results(Form const& attention, Case const& c, std::vector<Index> queries = {}) {
  using R = Real<T>;
  SCOPED_TRACE(::testing::Message() << "H " << c.heads << " G " << c.kv_heads << " D " << c.head_width
                                    << " block " << c.block << " longest " << c.longest());
  Exec const exec;
  PlainAttention plain;
  plain.m = shapes(c);
  plain.start = {0};
  for (Index const length : c.lengths) plain.start.push_back(plain.start.back() + length);
  Index const N = plain.tokens(), width = c.heads * c.head_width;
  plain.qkv = stored<T>(random_values(N * plain.ld(), 1, 1.0));
  auto dout_values = stored<T>(random_values(N * width, 2, 1.0));
  bool const some = !queries.empty();
  if (!some) {
    queries.resize(at(N));
    std::iota(queries.begin(), queries.end(), Index{0});
  }
  plain.queries = queries;
  if (some) {
    Values all(dout_values.size(), 0.0);
    for (Index const n : queries)
      for (Index i = 0; i < width; ++i) all[at(n * width + i)] = dout_values[at(n * width + i)];
    dout_values = all;
  }

  auto const qkv = make2<T>(N, plain.ld(), plain.qkv), dout = make2<T>(N, width, dout_values);
  View2<T> const out("out", N, width), dqkv("dqkv", N, plain.ld());
  View2<R> const lse("lse", N, c.heads), delta("delta", N, c.heads);
  Kokkos::deep_copy(dqkv, T(std::numeric_limits<float>::quiet_NaN()));  // must be overwritten
  attention.forward(exec, qkv, plain.start, out, lse);
  kernels::attention_delta<T>(exec, out, dout, c.heads, delta);
  attention.backward(exec, qkv, plain.start, lse, dout, delta, dqkv);
  exec.fence();

  Values want, want_lse;
  plain.forward(want, want_lse);
  auto const want_dqkv = plain.backward(dout_values);
  auto const looked_at = [&](Values const& all, Index columns) { return of_rows(all, queries, columns); };
  auto const got_lse = looked_at(to_host(lse), c.heads), got = looked_at(to_host(out), width),
             got_dqkv = to_host(dqkv);
  want_lse = looked_at(want_lse, c.heads), want = looked_at(want, width);
  // A score is a sum of D terms below 1, so an error of D u, which the softmax passes on relatively; products
  // over the keys of a sample add as many roundings again. Values of v, dout and so of dp stay below D.
  double const u = rounding<R>(), d = static_cast<double>(c.head_width),
               keys = static_cast<double>(c.longest());
  double const sums = 4 * (d + keys) * u;
  expect_close(got_lse, want_lse, 0.0, sums);
  // The probabilities, which add up to 1, and the result are rounded to T. The gradient also sees the
  // gradient of the scores and, in delta, the result rounded: four roundings, which meet at random, so that
  // of the gradient as a whole they take two.
  double const stored_in = std::is_same_v<T, R> ? 0.0 : rounding<T>();
  if (some) {
    // Among thousands of keys of either sign the results are small, and so are their errors: relative to the
    // whole, roundings of n terms that meet at random add up to sqrt(n) of them, and two of T to sqrt(2).
    double const walk = 4 * (d + std::sqrt(keys)) * u;
    EXPECT_LT(relative_distance(got, want), walk + std::sqrt(2.0) * stored_in);
    EXPECT_LT(relative_distance(got_dqkv, want_dqkv), walk + 2 * stored_in);
    return;
  }
  expect_close(got, want, stored_in, sums + stored_in);
  if constexpr (std::is_same_v<T, R>) {
    expect_close(got_dqkv, want_dqkv, 0.0, 2 * d * sums);
  } else {
    EXPECT_LT(relative_distance(got_dqkv, want_dqkv), 2 * stored_in);
  }
}

template <class T>
class AttentionTest : public ::testing::Test {};
using Types = ::testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(AttentionTest, Types);

TYPED_TEST(AttentionTest, DevicesFormAgainstPlainLoops) {
  using T = TypeParam;
  if (std::is_same_v<T, bfloat16> && bf16_products() == Bf16Products::none)
    GTEST_SKIP() << "no 16-bit products";
  for (auto const& c : kCases)
    expect_plain_results<T>(BlockedAttention<T>(shapes(c), c.longest(), true, c.block), c);
}

TYPED_TEST(AttentionTest, HostsFormAgainstPlainLoops) {
  using T = TypeParam;
  if constexpr (kernels::kHostRows) {
    for (auto const& c : kCases) expect_plain_results<T>(Attention<T>(shapes(c), c.longest(), true), c);
  } else {
    GTEST_SKIP() << "attention takes the devices' form in this build";
  }
}

// Every key of the longest sequence counts, and the widest heads beyond one block of keys.
Case const kLongest = {1, 1, 16, {8192}, 256}, kWidest = {1, 1, 256, {700}, 64};
std::vector<Index> const kOfLongest = {4095, 4096, 6001, 8191}, kOfWidest = {0, 511, 512, 513, 640, 699};

TYPED_TEST(AttentionTest, DevicesFormOfLongAndWideSamples) {
  using T = TypeParam;
  if (std::is_same_v<T, bfloat16> && bf16_products() == Bf16Products::none)
    GTEST_SKIP() << "no 16-bit products";
  for (auto const& [c, queries] : {std::pair(kLongest, kOfLongest), std::pair(kWidest, kOfWidest)})
    expect_plain_results<T>(BlockedAttention<T>(shapes(c), c.longest(), true, c.block), c, queries);
}

TYPED_TEST(AttentionTest, HostsFormOfLongAndWideSamples) {
  using T = TypeParam;
  if constexpr (kernels::kHostRows) {
    for (auto const& [c, queries] : {std::pair(kLongest, kOfLongest), std::pair(kWidest, kOfWidest)})
      expect_plain_results<T>(Attention<T>(shapes(c), c.longest(), true), c, queries);
  } else {
    GTEST_SKIP() << "attention takes the devices' form in this build";
  }
}

TYPED_TEST(AttentionTest, SamplesBeyondItsScratchThrow) {
  using T = TypeParam;
  ModelConfig m;
  m.heads = m.kv_heads = 1, m.head_width = 2;
  BlockedAttention<T> const attention(m, 3, false);
  View2<T> const qkv("qkv", 4, 6), out("out", 4, 2);
  View2<Real<T>> const lse("lse", 4, 1);
  EXPECT_THROW(attention.forward(Exec(), qkv, {0, 4}, out, lse), std::logic_error);
}

}  // namespace
}  // namespace upit::test
