// SPDX-License-Identifier: Apache-2.0
// Owns causal grouped-query attention of devices: every product takes a block of queries of all heads at
// once.
#pragma once

#include <type_traits>
#include <vector>

#include "upit/core/types.hpp"
#include "upit/kernels/row.hpp"
#include "upit/model/attention.hpp"
#include "upit/model/config.hpp"

namespace upit {

/// The same mathematics and arguments as `Attention`, in strided-batched products with row kernels between.
/// Blocks above the diagonal and across samples are never formed; backward recomputes the scores from the
/// log-sum-exp. Scores and sums are
/// Real<T>. Runs in any execution space, so that hosts can test it. Waits for nothing.
template <class T>
class BlockedAttention {
 public:
  /// Queries per block: the products fill a device, half a diagonal block is little waste.
  static constexpr Index kQueryBlock = 256;

  /// `longest`: tokens of the longest sample that will come.
  BlockedAttention(ModelConfig const& model, Index longest, bool with_backward,
                   Index query_block = kQueryBlock);

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
  struct Block;
  template <class Work>
  void for_each_block(std::vector<Index> const& start, Work const& work) const;

  Index heads_, groups_, head_width_, longest_, query_block_;
  View1<Real<T>> score_, dscore_;   // (H, query block, longest)
  View1<T> probability_, rounded_;  // the same, as the products read them; of Real<T>, in their place
  View2<Real<T>> dkv_;              // (longest, 2GD) sums over blocks where T is narrower than they
};

extern template class BlockedAttention<float>;
extern template class BlockedAttention<double>;
extern template class BlockedAttention<bfloat16>;

/// The form that the model takes in this build.
template <class T>
using ModelAttention = std::conditional_t<kernels::kHostRows, Attention<T>, BlockedAttention<T>>;

}  // namespace upit
