// SPDX-License-Identifier: Apache-2.0
// Owns the negative log likelihood of target tokens under softmax of their logits, and its gradient.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// nll = log(sum_v exp(logits[v])) - logits[target], in nats, by subtraction of the row's maximum.
///
///   target  (M)     in   ids in [0, V), not checked on the device; a negative one: no loss, nll = 0
///   logits  (M, V)  in
///   nll     (M)     out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void cross_entropy(Exec const& exec, View1<int const> target, View2<T const> logits, View1<Real<T>> nll);

/// nll as above, and the gradient of scale * nll in the place of the logits: scale * (softmax -
/// onehot(target)), zero for a negative target.
///
///   target  (M)     in
///   logits  (M, V)  in/out
///   nll     (M)     out  not scaled
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void cross_entropy_backward(Exec const& exec, View1<int const> target, Real<T> scale, View2<T> logits,
                            View1<Real<T>> nll);

}  // namespace upit::kernels
