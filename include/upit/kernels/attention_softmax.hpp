// SPDX-License-Identifier: Apache-2.0
// Owns the row-wise part of attention: softmax of a block's scores between the two products, and its
// gradient.
#pragma once

#include <limits>

#include "upit/core/math.hpp"
#include "upit/core/types.hpp"
#include "upit/kernels/row.hpp"

namespace upit::kernels {

/// score[0, valid) = softmax(scale * score[0, valid)), score[valid, width) = 0. scale > 0.
/// Returns log(sum exp(scale * score)) over the valid part, -inf if valid = 0.
///
/// By the threads of `row` (an `Index`: by the calling thread alone). Ends behind a `row_barrier`.
template <class T, class AnyRow>
KOKKOS_INLINE_FUNCTION Real<T> softmax_row(AnyRow const& row, T* score, Index valid, Index width,
                                           Real<T> scale) {
  using R = Real<T>;
  constexpr R kInfinity = std::numeric_limits<R>::infinity();
  row_for(row, width - valid, [=](Index const i) { score[valid + i] = T(0); });
  if (valid <= 0) {
    row_barrier(row);
    return -kInfinity;
  }
  R const largest = row_max<R>(row, valid, [=](Index const i) { return static_cast<R>(score[i]) * scale; });
  R const sum = row_sum<R>(row, valid, [=](Index const i) {
    R const e = fast_exp(static_cast<R>(score[i]) * scale - largest);
    score[i] = static_cast<T>(e);
    return e;
  });
  row_barrier(row);
  R const inverse = R(1) / sum;
  row_for(row, valid, [=](Index const i) { score[i] = static_cast<T>(static_cast<R>(score[i]) * inverse); });
  row_barrier(row);
  return largest + log(sum);
}

/// score[0, valid) = exp(scale * score - lse), the softmax again from its saved log-sum-exp; the rest 0.
/// Threads as in `softmax_row`.
template <class T, class AnyRow>
KOKKOS_INLINE_FUNCTION void softmax_recompute_row(AnyRow const& row, T* score, Index valid, Index width,
                                                  Real<T> scale, Real<T> lse) {
  using R = Real<T>;
  row_for(row, valid, [=](Index const i) {
    score[i] = static_cast<T>(fast_exp(static_cast<R>(score[i]) * scale - lse));
  });
  row_for(row, width - valid, [=](Index const i) { score[valid + i] = T(0); });
  row_barrier(row);
}

/// Gradient of the scores, in the place of the gradient of the probabilities: dS = scale * P * (dP - delta)
/// on [0, valid), the rest 0; delta = sum_j P_j dP_j of the whole row, from `attention_delta`. Threads as in
/// `softmax_row`.
template <class T, class AnyRow>
KOKKOS_INLINE_FUNCTION void softmax_gradient_row(AnyRow const& row, T const* probability, T* dprobability,
                                                 Index valid, Index width, Real<T> scale, Real<T> delta) {
  using R = Real<T>;
  row_for(row, valid, [=](Index const i) {
    R const gradient = static_cast<R>(dprobability[i]) - delta;
    dprobability[i] = static_cast<T>(scale * static_cast<R>(probability[i]) * gradient);
  });
  row_for(row, width - valid, [=](Index const i) { dprobability[valid + i] = T(0); });
  row_barrier(row);
}

/// A row's share of the softmax in one block of keys, by the calling thread alone: score[0, valid) =
/// exp(scale * score - largest), score[valid, width) = 0. `largest` and `sum` carry the row's maximum of
/// scale * score and its sum of exponentials from block to block (Dao et al. 2022, algorithm 1, lines 10 to
/// 12); they begin at -infinity and 0. Returns what earlier blocks' exponentials are to be multiplied by. 0 <
/// valid.
template <class R>
inline R softmax_block_row(R* score, Index valid, Index width, R scale, R& largest, R& sum) {
  R const here = scale * row_max<R>(Index{0}, valid, [=](Index const i) { return score[i]; });
  R const most = here > largest ? here : largest;
  R const shrunk = fast_exp(largest - most);
  R const more = row_sum<R>(Index{0}, valid, [=](Index const i) {
    R const e = fast_exp(score[i] * scale - most);
    score[i] = e;
    return e;
  });
  row_for(Index{0}, width - valid, [=](Index const i) { score[valid + i] = R(0); });
  sum = sum * shrunk + more;
  largest = most;
  return shrunk;
}

/// Probabilities and gradient of the scores of one row and block of keys, by the calling thread alone: score
/// = exp(scale * score - lse), dscore = scale * score * (dscore - delta) on [0, valid), the rest 0. As
/// `softmax_recompute_row` and `softmax_gradient_row`, in one pass.
template <class R>
inline void softmax_backward_row(R* score, R* dscore, Index valid, Index width, R scale, R lse, R delta) {
  row_for(Index{0}, valid, [=](Index const i) {
    R const p = fast_exp(score[i] * scale - lse);
    score[i] = p;
    dscore[i] = scale * p * (dscore[i] - delta);
  });
  row_for(Index{0}, width - valid, [=](Index const i) {
    score[valid + i] = R(0);
    dscore[valid + i] = R(0);
  });
}

/// delta[n, h] = sum over the head's columns of out * dout: what `softmax_gradient_row` subtracts (Dao et al.
/// 2022, equation 4: the row sum of P dP equals that of O dO).
///
///   out, dout  (N, H*D)  in
///   delta      (N, H)    out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void attention_delta(Exec const& exec, View2<T const> out, View2<T const> dout, Index heads,
                     View2<Real<T>> delta);

}  // namespace upit::kernels
