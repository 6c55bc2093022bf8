// SPDX-License-Identifier: Apache-2.0
#include "upit/model/attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "upit/core/error.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit {
namespace {

/// Queries per block: high enough for the products, low enough that half a diagonal block is little waste.
constexpr Index kQueryBlock = 64;

/// Runs task(t, thread) for t in [0, tasks), one host thread a task, taken in order as threads come free.
/// Which thread takes a task does not matter to any result: tasks write disjoint memory.
template <class Task>
void for_each_task(Exec const& exec, char const* label, Index threads, Index tasks, Task const& task) {
  exec.fence();
  std::atomic<Index> next{0};
  Kokkos::parallel_for(label, Kokkos::RangePolicy<HostExec>(0, threads), [&](Index const thread) {
    for (Index t = next++; t < tasks; t = next++) task(t, thread);
  });
  HostExec().fence();
}

}  // namespace

template <class T>
Attention<T>::Attention(ModelConfig const& model, Index longest, bool with_backward)
    : heads_(model.heads),
      groups_(model.kv_heads),
      head_width_(model.head_width),
      longest_(longest),
      threads_(HostExec().concurrency()),
      score_(Kokkos::view_alloc("upit::attention.score", Kokkos::WithoutInitializing), threads_,
             kQueryBlock * longest),
      dscore_(Kokkos::view_alloc("upit::attention.dscore", Kokkos::WithoutInitializing), threads_,
              with_backward ? kQueryBlock * longest : 0) {
  static_assert(Kokkos::SpaceAccessibility<HostExec, Memory>::accessible,
                "attention's host form; a device form takes strided-batched products");
}

template <class T>
Index Attention<T>::bytes() const {
  return static_cast<Index>((score_.span() + dscore_.span()) * sizeof(T));
}

template <class T>
void Attention<T>::forward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                           View2<T> attended, View2<Real<T>> log_sum_exp) const {
  Index const d = head_width_, heads = heads_, groups = groups_, per_group = heads / groups;
  Index const ld = static_cast<Index>(qkv.extent(1)), ld_out = heads * d;
  Index const segments = static_cast<Index>(start.size()) - 1;
  for (std::size_t s = 1; s < start.size(); ++s) {
    expect(start[s] - start[s - 1] <= longest_, "a sample is longer than attention's scratch");
  }
  auto const scale = static_cast<Real<T>>(1.0 / std::sqrt(static_cast<double>(d)));
  for_each_task(exec, "upit::attention_forward", threads_, segments * heads, [&](Index task, Index thread) {
    Index const begin = start[static_cast<std::size_t>(task / heads)];
    Index const length = start[static_cast<std::size_t>(task / heads) + 1] - begin;
    Index const head = task % heads, group = head / per_group;
    T const* const q = qkv.data() + begin * ld + head * d;
    T const* const k = qkv.data() + begin * ld + (heads + group) * d;
    T const* const v = qkv.data() + begin * ld + (heads + groups + group) * d;
    T* const score = &score_(thread, 0);
    for (Index first = 0; first < length; first += kQueryBlock) {
      Index const queries = std::min(kQueryBlock, length - first);
      Index const keys = first + queries;
      gemm_in_thread<T>(Op::none, Op::transpose, queries, keys, d, 1, q + first * ld, ld, k, ld, 0, score,
                        keys);
      for (Index i = 0; i < queries; ++i) {
        log_sum_exp(begin + first + i, head) =
            kernels::softmax_row<T>(score + i * keys, first + i + 1, keys, scale);
      }
      gemm_in_thread<T>(Op::none, Op::none, queries, d, keys, 1, score, keys, v, ld, 0,
                        attended.data() + (begin + first) * ld_out + head * d, ld_out);
    }
  });
}

template <class T>
void Attention<T>::backward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                            View2<Real<T> const> log_sum_exp, View2<T const> dattended,
                            View2<Real<T> const> delta, View2<T> dqkv) const {
  Index const d = head_width_, heads = heads_, groups = groups_, per_group = heads / groups;
  Index const ld = static_cast<Index>(qkv.extent(1)), ld_out = heads * d;
  Index const segments = static_cast<Index>(start.size()) - 1;
  auto const scale = static_cast<Real<T>>(1.0 / std::sqrt(static_cast<double>(d)));
  // One task owns all query heads of a key-value head, so that sums into dk and dv stay in one thread.
  for_each_task(exec, "upit::attention_backward", threads_, segments * groups, [&](Index task, Index thread) {
    Index const begin = start[static_cast<std::size_t>(task / groups)];
    Index const length = start[static_cast<std::size_t>(task / groups) + 1] - begin;
    Index const group = task % groups;
    Index const k_column = (heads + group) * d, v_column = (heads + groups + group) * d;
    T const* const k = qkv.data() + begin * ld + k_column;
    T const* const v = qkv.data() + begin * ld + v_column;
    T* const dk = dqkv.data() + begin * ld + k_column;
    T* const dv = dqkv.data() + begin * ld + v_column;
    for (Index i = 0; i < length; ++i) {
      std::fill_n(dk + i * ld, d, T(0));
      std::fill_n(dv + i * ld, d, T(0));
    }
    T* const p = &score_(thread, 0);
    T* const dp = &dscore_(thread, 0);
    for (Index head = group * per_group; head < (group + 1) * per_group; ++head) {
      T const* const q = qkv.data() + begin * ld + head * d;
      T* const dq = dqkv.data() + begin * ld + head * d;
      for (Index first = 0; first < length; first += kQueryBlock) {
        Index const queries = std::min(kQueryBlock, length - first);
        Index const keys = first + queries;
        T const* const dout = dattended.data() + (begin + first) * ld_out + head * d;
        gemm_in_thread<T>(Op::none, Op::transpose, queries, keys, d, 1, q + first * ld, ld, k, ld, 0, p,
                          keys);
        for (Index i = 0; i < queries; ++i) {
          kernels::softmax_recompute_row<T>(p + i * keys, first + i + 1, keys, scale,
                                            log_sum_exp(begin + first + i, head));
        }
        gemm_in_thread<T>(Op::none, Op::transpose, queries, keys, d, 1, dout, ld_out, v, ld, 0, dp, keys);
        gemm_in_thread<T>(Op::transpose, Op::none, keys, d, queries, 1, p, keys, dout, ld_out, 1, dv, ld);
        for (Index i = 0; i < queries; ++i) {
          kernels::softmax_gradient_row<T>(p + i * keys, dp + i * keys, first + i + 1, keys, scale,
                                           delta(begin + first + i, head));
        }
        gemm_in_thread<T>(Op::none, Op::none, queries, d, keys, 1, dp, keys, k, ld, 0, dq + first * ld, ld);
        gemm_in_thread<T>(Op::transpose, Op::none, keys, d, queries, 1, dp, keys, q + first * ld, ld, 1, dk,
                          ld);
      }
    }
  });
}

template class Attention<float>;
template class Attention<double>;

}  // namespace upit
