// SPDX-License-Identifier: Apache-2.0
#include "upit/model/blocked_attention.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "upit/core/error.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/linalg/batched_gemm.hpp"

namespace upit {
namespace {

using kernels::Row;

/// Rows of scores begin at multiples of this, which the products of a device load whole.
constexpr Index kAlignment = 8;

/// Where the scores of a block lie: (H, queries, ld), columns [0, keys) of each row used.
struct Layout {
  Index heads, queries, first, keys, ld;
};

/// to = from in a row's columns [0, n), unless they are one.
template <class T, class R, class AnyRow>
KOKKOS_INLINE_FUNCTION void round_row(AnyRow const& row, R const* from, Index n, T* to) {
  if constexpr (!std::is_same_v<T, R>) {
    kernels::row_for(row, n, [=](Index const i) { to[i] = static_cast<T>(from[i]); });
  }
}

/// score (H, queries, keys) = softmax over the keys that each query sees; lse (queries, H); p: the same in T.
template <class T, class R>
void softmax_block(Exec const& exec, Layout const& at, R scale, R* score, R* lse, T* p) {
  Index const queries = at.queries, first = at.first, keys = at.keys, ld = at.ld, heads = at.heads;
  Kokkos::parallel_for(
      "upit::attention_softmax", kernels::row_policy(exec, heads * queries, keys),
      KOKKOS_LAMBDA(Row const& row) {
        Index const e = kernels::row_index(row);
        Index const head = e / queries, i = e - head * queries;
        R const sum = kernels::softmax_row<R>(row, score + e * ld, first + i + 1, keys, scale);
        kernels::row_once(row, [=] { lse[i * heads + head] = sum; });
        round_row(row, score + e * ld, keys, p + e * ld);
      });
}

/// score: scores in, probabilities out; dscore: gradient of the probabilities in, of the scores out; p, ds:
/// the same in T.
template <class T, class R>
void softmax_block_backward(Exec const& exec, Layout const& at, R scale, R const* lse, R const* delta,
                            R* score, R* dscore, T* p, T* ds) {
  Index const queries = at.queries, first = at.first, keys = at.keys, ld = at.ld, heads = at.heads;
  Kokkos::parallel_for(
      "upit::attention_softmax_backward", kernels::row_policy(exec, heads * queries, keys),
      KOKKOS_LAMBDA(Row const& row) {
        Index const e = kernels::row_index(row);
        Index const head = e / queries, i = e - head * queries;
        kernels::softmax_recompute_row<R>(row, score + e * ld, first + i + 1, keys, scale,
                                          lse[i * heads + head]);
        kernels::softmax_gradient_row<R>(row, score + e * ld, dscore + e * ld, first + i + 1, keys, scale,
                                         delta[i * heads + head]);
        round_row(row, score + e * ld, keys, p + e * ld);
        round_row(row, dscore + e * ld, keys, ds + e * ld);
      });
}

/// Columns [0, 2GD) of `to`, rows ld apart, from the sums of a sample's keys and values.
template <class T, class R>
void round_sums(Exec const& exec, View2<R> const& sums, T* to, Index ld) {
  Index const length = static_cast<Index>(sums.extent(0));
  Index const columns = static_cast<Index>(sums.extent(1));
  Kokkos::parallel_for(
      "upit::attention_round", kernels::row_policy(exec, length, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const n = kernels::row_index(row);
        round_row(row, sums.data() + n * columns, columns, to + n * ld);
      });
}

}  // namespace

/// Queries [token, token + queries) of the batch, which see the keys [begin, begin + keys) of their sample.
template <class T>
struct BlockedAttention<T>::Block {
  Index begin, token, length;
  Layout at;
};

template <class T>
BlockedAttention<T>::BlockedAttention(ModelConfig const& model, Index longest, bool with_backward,
                                      Index query_block)
    : heads_(model.heads),
      groups_(model.kv_heads),
      head_width_(model.head_width),
      longest_(longest),
      query_block_(std::min(query_block, longest)) {
  expect(query_block >= 1, "attention: a block holds a query");
  Index const ld = (longest + kAlignment - 1) / kAlignment * kAlignment;
  Index const size = heads_ * query_block_ * ld;
  score_ = View1<Real<T>>(Kokkos::view_alloc("upit::attention.score", Kokkos::WithoutInitializing), size);
  dscore_ = View1<Real<T>>(Kokkos::view_alloc("upit::attention.dscore", Kokkos::WithoutInitializing),
                           with_backward ? size : 0);
  if constexpr (std::is_same_v<T, Real<T>>) {
    probability_ = score_;
    rounded_ = dscore_;
  } else {
    probability_ =
        View1<T>(Kokkos::view_alloc("upit::attention.probability", Kokkos::WithoutInitializing), size);
    rounded_ = View1<T>(Kokkos::view_alloc("upit::attention.rounded", Kokkos::WithoutInitializing),
                        dscore_.extent(0));
    dkv_ = View2<Real<T>>(Kokkos::view_alloc("upit::attention.dkv", Kokkos::WithoutInitializing),
                          with_backward ? longest : 0, 2 * groups_ * head_width_);
  }
}

template <class T>
Index BlockedAttention<T>::bytes() const {
  auto const narrow = std::is_same_v<T, Real<T>> ? 0 : probability_.span() + rounded_.span();
  return static_cast<Index>((score_.span() + dscore_.span() + dkv_.span()) * sizeof(Real<T>) +
                            narrow * sizeof(T));
}

template <class T>
template <class Work>
void BlockedAttention<T>::for_each_block(std::vector<Index> const& start, Work const& work) const {
  for (std::size_t s = 1; s < start.size(); ++s) {
    Index const begin = start[s - 1], length = start[s] - begin;
    expect(length <= longest_, "a sample is longer than attention's scratch");
    for (Index first = 0; first < length; first += query_block_) {
      Index const queries = std::min(query_block_, length - first), keys = first + queries;
      Index const ld = (keys + kAlignment - 1) / kAlignment * kAlignment;
      work(Block{begin, begin + first, length, {heads_, queries, first, keys, ld}});
    }
  }
}

template <class T>
void BlockedAttention<T>::forward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                                  View2<T> attended, View2<Real<T>> log_sum_exp) const {
  Index const d = head_width_, G = groups_, per_group = heads_ / groups_;
  Index const ld = static_cast<Index>(qkv.extent(1)), ld_out = heads_ * d;
  using R = Real<T>;
  auto const scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(d)));
  T const* const k = qkv.data() + heads_ * d;
  T const* const v = k + G * d;
  for_each_block(start, [&](Block const& b) {
    Index const per_head = b.at.queries * b.at.ld;
    T const* const q = qkv.data() + b.token * ld;
    T* const out = attended.data() + b.token * ld_out;
    Index const stride = per_group * per_head;
    // Product number g takes head g * per_group + j: the heads of a group share its keys.
    for (Index j = 0; j < per_group; ++j) {
      batched_gemm<T, R>(exec, Op::none, Op::transpose, G, b.at.queries, b.at.keys, d, 1,
                         {q + j * d, ld, per_group * d}, {k + b.begin * ld, ld, d}, 0,
                         {score_.data() + j * per_head, b.at.ld, stride});
    }
    softmax_block<T, R>(exec, b.at, scale, score_.data(), log_sum_exp.data() + b.token * heads_,
                        probability_.data());
    for (Index j = 0; j < per_group; ++j) {
      batched_gemm<T>(exec, Op::none, Op::none, G, b.at.queries, d, b.at.keys, 1,
                      {probability_.data() + j * per_head, b.at.ld, stride}, {v + b.begin * ld, ld, d}, 0,
                      {out + j * d, ld_out, per_group * d});
    }
  });
}

template <class T>
void BlockedAttention<T>::backward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                                   View2<Real<T> const> log_sum_exp, View2<T const> dattended,
                                   View2<Real<T> const> delta, View2<T> dqkv) const {
  Index const d = head_width_, G = groups_, per_group = heads_ / groups_;
  Index const ld = static_cast<Index>(qkv.extent(1)), ld_out = heads_ * d;
  using R = Real<T>;
  auto const scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(d)));
  Index const k_column = heads_ * d, v_column = k_column + G * d;
  constexpr bool kRounds = !std::is_same_v<T, R>;
  if constexpr (!kRounds) kernels::fill<T>(exec, dqkv, T(0));  // blocks add to dk and dv
  for_each_block(start, [&](Block const& b) {
    Index const queries = b.at.queries, keys = b.at.keys, per_head = queries * b.at.ld;
    T const* const here = qkv.data() + b.token * ld;
    T const* const sample = qkv.data() + b.begin * ld;
    T* const dq = dqkv.data() + b.token * ld;
    T* const dsample = dqkv.data() + b.begin * ld + k_column;
    T const* const dout = dattended.data() + b.token * ld_out;
    MatrixStack<T const> const k{sample + k_column, ld, d}, v{sample + v_column, ld, d};
    MatrixStack<R> dk{dkv_.data(), 2 * G * d, d};
    if constexpr (!kRounds) {
      dk = {dsample, ld, d};
    } else if (b.at.first == 0) {
      kernels::fill<R>(exec, View2<R>(dkv_.data(), b.length, 2 * G * d), R(0));
    }
    MatrixStack<R> const dv{dk.data + G * d, dk.ld, d};
    Index const stride = per_group * per_head;
    for (Index j = 0; j < per_group; ++j) {
      MatrixStack<T const> const q{here + j * d, ld, per_group * d}, o{dout + j * d, ld_out, per_group * d};
      batched_gemm<T, R>(exec, Op::none, Op::transpose, G, queries, keys, d, 1, q, k, 0,
                         {score_.data() + j * per_head, b.at.ld, stride});
      batched_gemm<T, R>(exec, Op::none, Op::transpose, G, queries, keys, d, 1, o, v, 0,
                         {dscore_.data() + j * per_head, b.at.ld, stride});
    }
    softmax_block_backward<T, R>(exec, b.at, scale, log_sum_exp.data() + b.token * heads_,
                                 delta.data() + b.token * heads_, score_.data(), dscore_.data(),
                                 probability_.data(), rounded_.data());
    for (Index j = 0; j < per_group; ++j) {
      MatrixStack<T const> const q{here + j * d, ld, per_group * d}, o{dout + j * d, ld_out, per_group * d};
      MatrixStack<T const> const p{probability_.data() + j * per_head, b.at.ld, stride};
      MatrixStack<T const> const ds{rounded_.data() + j * per_head, b.at.ld, stride};
      batched_gemm<T, R>(exec, Op::transpose, Op::none, G, keys, d, queries, 1, p, o, 1, dv);
      batched_gemm<T>(exec, Op::none, Op::none, G, queries, d, keys, 1, ds, k, 0,
                      {dq + j * d, ld, per_group * d});
      batched_gemm<T, R>(exec, Op::transpose, Op::none, G, keys, d, queries, 1, ds, q, 1, dk);
    }
    if constexpr (kRounds) {
      if (keys == b.length) round_sums<T, R>(exec, View2<R>(dkv_.data(), b.length, 2 * G * d), dsample, ld);
    }
  });
}

template class BlockedAttention<float>;
template class BlockedAttention<double>;
template class BlockedAttention<bfloat16>;

}  // namespace upit
