// SPDX-License-Identifier: Apache-2.0
// Owns the router: choice of experts, their gates, the gradient of both losses through it, its statistics.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Chooses, for every token, the K experts with the largest logits, and their gates.
///
///   softmax_first  false: gates are the softmax over the K chosen logits (`scale` is not used);
///                  true: `scale` times the softmax over all E, of which K are kept, not renormalised
///   logits         (N, E)  in
///   expert         (N, K)  out  ids by falling logit; a tie goes to the lower id; NaN counts as -infinity
///   gate           (N, K)  out
///   probability    (N, E)  out  softmax over all E logits, in both orders
///
/// Throws `std::logic_error` unless 1 <= K <= E. Enqueued on `exec`, not finished, when it returns.
template <class R>
void router_topk(Exec const& exec, bool softmax_first, R scale, View2<R const> const& logits,
                 View2<int> const& expert, View2<R> const& gate, View2<R> const& probability);

/// Gradient of the logits: what comes through the gates plus what the load-balancing loss asks for.
///
///   probability  (N, E)  in   of the forward
///   expert       (N, K)  in
///   gate         (N, K)  in
///   dgate        (N, K)  in
///   balance      (E)     in   d(loss)/d(probability of one token), the same for all tokens; extent 0: none
///   dlogits      (N, E)  out  overwritten
///
/// Enqueued on `exec`, not finished, when it returns.
template <class R>
void router_backward(Exec const& exec, bool softmax_first, R scale, View2<R const> const& probability,
                     View2<int const> const& expert, View2<R const> const& gate, View2<R const> const& dgate,
                     View1<R const> const& balance, View2<R> const& dlogits);

/// Sums over the tokens of a pass; the same for any number of threads.
///
///   expert           (N, K)  in
///   probability      (N, E)  in
///   assigned         (E)     out  slots sent to each expert
///   probability_sum  (E)     out
///   entropy          (1)     out  sum over tokens of -sum_e p log p, nats
///
/// Enqueued on `exec`, not finished, when it returns.
template <class R>
void router_statistics(Exec const& exec, View2<int const> const& expert, View2<R const> const& probability,
                       View1<double> const& assigned, View1<double> const& probability_sum,
                       View1<double> const& entropy);

/// Loss of routing vectors that do not gate (UpIT, Eq. 2) and its gradient, stable for large logits.
///
///   logit   (N)  in
///   dlogit  (N)  out  weight * d/dlogit of -log sigmoid(logit), or of -log sigmoid(-logit) if not `positive`
///   loss    (1)  out  accumulated: += the sum over tokens, without `weight`
///
/// Enqueued on `exec`, not finished, when it returns.
template <class R>
void auxiliary_router(Exec const& exec, View1<R const> const& logit, bool positive, R weight,
                      View1<R> const& dlogit, View1<double> const& loss);

}  // namespace upit::kernels
