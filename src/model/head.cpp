// SPDX-License-Identifier: Apache-2.0
#include "upit/model/head.hpp"

#include <algorithm>
#include <type_traits>

#include "upit/kernels/cross_entropy.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/kernels/gather.hpp"
#include "upit/kernels/row.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit {
namespace {

/// Targets whose logits take near 32 MiB of fp32: enough for the products, little enough for caches. A device
/// has more to fill.
Index largest_chunk(Index vocabulary) {
  constexpr Index kLogits = Index{1} << (kernels::kHostRows ? 23 : 27);
  return std::max<Index>(kLogits / std::max<Index>(vocabulary, 1), 64);
}

/// Targets of a chunk, so that all chunks are nearly the same: products of a few left over are slow.
Index chunk_size(Index targets, Index vocabulary) {
  constexpr Index kMultiple = 16;
  Index const largest = largest_chunk(vocabulary);
  Index const chunks = std::max<Index>((targets + largest - 1) / largest, 1);
  Index const even = (targets + chunks - 1) / chunks;
  return (even + kMultiple - 1) / kMultiple * kMultiple;
}

template <class V>
V uninitialised(char const* name, auto... extents) {
  return V(Kokkos::view_alloc(std::string("upit::head.") + name, Kokkos::WithoutInitializing), extents...);
}

}  // namespace

// No chunk is larger than those of the most targets, rounding included.
Index head_rows(Index vocabulary, Index max_tokens) {
  constexpr Index kRounding = 16;
  return std::min(largest_chunk(vocabulary), max_tokens) + kRounding;
}

template <class T>
Head<T>::Head(ModelConfig const& model, Index max_tokens, bool with_backward)
    : vocabulary_(model.vocabulary),
      rows_(uninitialised<View2<T>>("rows", max_tokens, model.width)),
      drows_(uninitialised<View2<T>>("drows", with_backward ? max_tokens : 0, model.width)),
      nll_("upit::head.nll", max_tokens),
      nll_copy_("upit::head.nll_copy", max_tokens) {
  Index const chunk = head_rows(vocabulary_, max_tokens);
  Index const blocks = kernels::vocabulary_blocks(vocabulary_);
  logits_ = uninitialised<View1<Real<T>>>("logits", chunk * vocabulary_);
  largest_ = uninitialised<View1<Real<T>>>("largest", chunk * blocks);
  sum_ = uninitialised<View1<Real<T>>>("sum", chunk * blocks);
  if constexpr (std::is_same_v<T, Real<T>>) {
    dlogits_ = logits_;
  } else if (with_backward) {
    dlogits_ = uninitialised<View1<T>>("dlogits", chunk * vocabulary_);
  }
  nll_host_.reserve(at(max_tokens));
}

template <class T>
double Head<T>::forward(Exec const& exec, View2<T> const& y, Parameter<T> const& head, Batch const& batch,
                        double loss_scale, View2<T> const* dy) {
  Index const n = batch.tokens(), m = batch.targets();
  auto const width = static_cast<Index>(y.extent(1));
  // Where every row has a target, no rows move.
  bool const all = m == n;
  View2<T> const in = all ? y : View2<T>(rows_.data(), m, width);
  View1<int const> const row(batch.target_rows().data(), m);
  if (!all) kernels::gather_rows<T>(exec, y, row, in);
  View2<T> const din = dy == nullptr ? View2<T>() : all ? *dy : View2<T>(drows_.data(), m, width);
  Index const chunk = chunk_size(m, vocabulary_), blocks = kernels::vocabulary_blocks(vocabulary_);
  for (Index first = 0; first < m; first += chunk) {
    Index const rows = std::min(chunk, m - first);
    T const* const x = in.data() + first * width;
    View2<Real<T>> const logits(logits_.data(), vocabulary_, rows), largest(largest_.data(), blocks, rows),
        sum(sum_.data(), blocks, rows);
    View1<int const> const target(batch.dense_target().data() + first, rows);
    View1<Real<T>> const nll(nll_.data() + first, rows);
    // Logits stand as (V, rows): then the large matrix of each product, weights or logits, is read as it
    // lies.
    gemm<T, Real<T>>(exec, Op::none, Op::transpose, vocabulary_, rows, width, 1, head.weight, width, x, width,
                     0, logits.data(), rows);
    if (dy == nullptr) {
      kernels::cross_entropy<Real<T>>(exec, target, logits, largest, sum, nll);
      continue;
    }
    View2<T> const dlogits(dlogits_.data(), vocabulary_, rows);
    kernels::cross_entropy_backward<T>(exec, target, static_cast<Real<T>>(loss_scale), logits, largest, sum,
                                       dlogits, nll);
    gemm<T>(exec, Op::transpose, Op::none, rows, width, vocabulary_, 1, dlogits.data(), rows, head.weight,
            width, 0, din.data() + first * width, width);
    if (head.trained()) {
      gemm<T, Real<T>>(exec, Op::none, Op::none, vocabulary_, width, rows, 1, dlogits.data(), rows, x, width,
                       1, head.gradient, width);
    }
  }
  if (dy != nullptr && !all) {
    kernels::fill<T>(exec, *dy, T(0));
    kernels::scatter_rows<T>(exec, din, row, *dy);
  }
  PinnedView1<Real<T>> const copy(nll_copy_.data(), m);
  Kokkos::deep_copy(exec, copy, View1<Real<T>>(nll_.data(), m));
  exec.fence();
  nll_host_.assign(copy.data(), copy.data() + m);
  double sum = 0.0;  // one thread, in order: the same for any number of threads
  for (double const value : nll_host_) sum += value;
  return sum;
}

template <class T>
Index Head<T>::bytes() const {
  auto const narrow = rows_.span() + drows_.span() + (std::is_same_v<T, Real<T>> ? 0 : dlogits_.span());
  auto const real = logits_.span() + largest_.span() + sum_.span() + nll_.span();
  return static_cast<Index>(narrow * sizeof(T) + real * sizeof(Real<T>));
}

template class Head<float>;
template class Head<double>;
template class Head<bfloat16>;

}  // namespace upit
