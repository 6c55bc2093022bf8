// SPDX-License-Identifier: Apache-2.0
// Owns the language-model head: logits and cross-entropy, a chunk of rows at a time.
#pragma once

#include <vector>

#include "upit/model/batch.hpp"
#include "upit/model/layer_parameters.hpp"

namespace upit {

/// The most targets that meet the head at a time.
Index head_rows(Index vocabulary, Index max_tokens);

/// Only rows with a target meet the head, and logits exist for one chunk of them: never (N, V).
template <class T>
class Head {
 public:
  Head(ModelConfig const& model, Index max_tokens, bool with_backward);

  /// y (N, C) after the last norm. Without gradients: nll of every target.
  /// With them (`loss_scale`: weight of each nll in the loss): also dy (N, C), overwritten, and, if trained,
  /// the head's gradient, added. Returns the sum of nll in nats.
  double forward(Exec const& exec, View2<T> const& y, Parameter<T> const& head, Batch const& batch,
                 double loss_scale, View2<T> const* dy);

  /// nll of the targets of the last forward, on the host.
  std::vector<double> const& nll() const { return nll_host_; }
  Index bytes() const;

 private:
  Index vocabulary_;
  View2<T> rows_, drows_;         // (max_tokens, C)
  View1<Real<T>> logits_;         // (V, targets of a chunk)
  View1<T> dlogits_;              // the same; of Real<T>, in the place of the logits
  View1<Real<T>> largest_, sum_;  // (vocabulary_blocks(V), targets of a chunk)
  View1<Real<T>> nll_;            // (max_tokens)
  PinnedView1<Real<T>> nll_copy_;
  std::vector<double> nll_host_;
};

extern template class Head<float>;
extern template class Head<double>;
extern template class Head<bfloat16>;

}  // namespace upit
