// SPDX-License-Identifier: Apache-2.0
// Owns the negative log likelihood of target tokens under softmax of their logits, and its gradient.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Ids of the vocabulary that are summed together; fixed, so that sums do not depend on the machine. With a
/// few hundred targets a block of logits stays in a second-level cache.
inline constexpr Index kVocabularyBlock = 256;

/// Blocks of a vocabulary of V ids: rows of the scratch below.
constexpr Index vocabulary_blocks(Index vocabulary) {
  return (vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
}

/// nll = log(sum_v exp(logits[v])) - logits[target], in nats, by subtraction of the maximum. Logits lie with
/// one row for each id of the vocabulary, which is how the products around them are fastest.
///
///   target        (M)     in   ids in [0, V), not checked on the device; a negative one: no loss, nll = 0
///   logits        (V, M)  in
///   largest, sum  (vocabulary_blocks(V), M)  scratch; afterwards each block's maximum, and what
///                         exp(logits - maximum) of the block is to be multiplied by to be the softmax
///   nll           (M)     out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class R>
void cross_entropy(Exec const& exec, View1<int const> target, View2<R const> logits, View2<R> largest,
                   View2<R> sum, View1<R> nll);

/// nll as above, and the gradient of scale * nll: scale * (softmax - onehot(target)), zero for a negative
/// target.
///
///   target        (M)     in
///   logits        (V, M)  in
///   largest, sum  (vocabulary_blocks(V), M)  scratch
///   dlogits       (V, M)  out; of the same type it may be `logits`
///   nll           (M)     out  not scaled
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void cross_entropy_backward(Exec const& exec, View1<int const> target, Real<T> scale,
                            View2<Real<T> const> logits, View2<Real<T>> largest, View2<Real<T>> sum,
                            View2<T> dlogits, View1<Real<T>> nll);

}  // namespace upit::kernels
