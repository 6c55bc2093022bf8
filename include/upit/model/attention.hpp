// SPDX-License-Identifier: Apache-2.0
// Owns causal grouped-query attention by block products; samples never see each other.
#pragma once

#include <vector>

#include "upit/core/types.hpp"
#include "upit/model/config.hpp"

namespace upit {

/// Attention over samples laid end to end. Scores are formed for a block of queries at a time against one
/// block of keys after the other, and kept only in per-thread scratch; forward carries each row's maximum and
/// sum from block to block, backward recomputes the probabilities from the log-sum-exp (as in
/// FlashAttention-2, arXiv 2307.08691, section 3.1). Blocks above the diagonal are never formed. Scores and
/// sums are Real<T>.
template <class T>
class Attention {
 public:
  /// `longest`: tokens of the longest sample that will come.
  Attention(ModelConfig const& model, Index longest, bool with_backward);

  /// qkv (N, (H+2G)D) after rotary, columns q heads, k heads, v heads; start (M+1) on the host;
  /// attended (N, HD) out; log_sum_exp (N, H) out, of the scaled scores.
  void forward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start, View2<T> attended,
               View2<Real<T>> log_sum_exp) const;

  /// dattended (N, HD), delta (N, H) = row dots of attended and dattended; dqkv (N, (H+2G)D) overwritten.
  void backward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                View2<Real<T> const> log_sum_exp, View2<T const> dattended, View2<Real<T> const> delta,
                View2<T> dqkv) const;

  Index bytes() const;

 private:
  Index heads_, groups_, head_width_, longest_;
  Index threads_;
  View2<Real<T>> scratch_;  // (threads, what one thread needs)
};

extern template class Attention<float>;
extern template class Attention<double>;
extern template class Attention<bfloat16>;

}  // namespace upit
