// SPDX-License-Identifier: Apache-2.0
#include "upit/model/attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <type_traits>

#include "upit/core/error.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/linalg/transpose.hpp"

namespace upit {
namespace {

/// Queries per block: high enough for the products, low enough that half a diagonal block is little waste.
constexpr Index kQueryBlock = 64;
/// Keys per block, a multiple of the former: a block of scores and one of gradients stay in the second-level
/// cache whatever the length of the sample.
constexpr Index kKeyBlock = 512;

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

/// Rows of a head in the precision that products are taken in: where they lie, or copied next to each other.
template <class R>
struct Rows {
  R const* data = nullptr;
  Index stride = 0;

  R const* operator[](Index row) const { return data + row * stride; }
};

template <class T>
Rows<Real<T>> in_reals(Index rows, Index columns, T const* from, Index stride, Real<T>* copy) {
  if constexpr (std::is_same_v<T, Real<T>>) {
    (void)rows, (void)columns, (void)copy;
    return {from, stride};
  } else {
    for (Index r = 0; r < rows; ++r)
      kernels::row_for(Index{0}, columns, [=](Index const c) {
        copy[r * columns + c] = static_cast<Real<T>>(from[r * stride + c]);
      });
    return {copy, columns};
  }
}

template <class T>
void store(Index rows, Index columns, Real<T> const* from, T* to, Index stride) {
  for (Index r = 0; r < rows; ++r)
    kernels::row_for(Index{0}, columns,
                     [=](Index const c) { to[r * stride + c] = static_cast<T>(from[r * columns + c]); });
}

/// One thread's buffers, cut out of its row of the scratch. A null row counts what they take.
template <class T>
struct Buffers {
  using R = Real<T>;
  static constexpr Index kCopies = std::is_same_v<T, R> ? 0 : 1;

  Buffers(R* row, Index longest, Index width, bool with_backward) : next_(row) {
    Index const backward = with_backward ? 1 : 0;
    k_transposed = take(width * longest);
    v_transposed = take(backward * width * longest);
    k = take(backward * kCopies * width * longest);
    v = take(kCopies * width * longest);
    dk = take(backward * width * longest);
    dv = take(backward * width * longest);
    q = take(kCopies * kQueryBlock * width);
    dout = take(backward * kCopies * kQueryBlock * width);
    out = take(kQueryBlock * width);
    score = take(kQueryBlock * std::min(kKeyBlock, longest + kQueryBlock));
    dscore = take(backward * kQueryBlock * std::min(kKeyBlock, longest + kQueryBlock));
    largest = take(kQueryBlock);
    sum = take(kQueryBlock);
  }

  Index size() const { return size_; }

  R *k_transposed, *v_transposed;  // (D, length)
  R *k, *v, *dk, *dv;              // (length, D)
  R *q, *dout, *out;               // (queries, D); out is dq in backward
  R *score, *dscore;               // (queries, keys)
  R *largest, *sum;                // (queries)

 private:
  R* take(Index n) {
    constexpr Index kLine = 64 / sizeof(R);
    R* const begin = next_ == nullptr ? nullptr : next_ + size_;
    size_ += (n + kLine - 1) / kLine * kLine;
    return begin;
  }

  R* next_;
  Index size_ = 0;
};

}  // namespace

template <class T>
Attention<T>::Attention(ModelConfig const& model, Index longest, bool with_backward)
    : heads_(model.heads),
      groups_(model.kv_heads),
      head_width_(model.head_width),
      longest_(longest),
      threads_(HostExec().concurrency()),
      scratch_(Kokkos::view_alloc("upit::attention.scratch", Kokkos::WithoutInitializing), threads_,
               Buffers<T>(nullptr, longest, model.head_width, with_backward).size()) {
  static_assert(Kokkos::SpaceAccessibility<HostExec, Memory>::accessible,
                "attention's host form; a device form takes strided-batched products");
}

template <class T>
Index Attention<T>::bytes() const {
  return static_cast<Index>(scratch_.span() * sizeof(Real<T>));
}

template <class T>
void Attention<T>::forward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                           View2<T> attended, View2<Real<T>> log_sum_exp) const {
  using R = Real<T>;
  Index const d = head_width_, heads = heads_, groups = groups_, per_group = heads / groups;
  Index const ld = static_cast<Index>(qkv.extent(1)), ld_out = heads * d;
  Index const segments = static_cast<Index>(start.size()) - 1;
  for (std::size_t s = 1; s < start.size(); ++s) {
    expect(start[s] - start[s - 1] <= longest_, "a sample is longer than attention's scratch");
  }
  auto const scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(d)));
  for_each_task(exec, "upit::attention_forward", threads_, segments * heads, [&](Index task, Index thread) {
    Buffers<T> const b(&scratch_(thread, 0), longest_, d, false);
    Index const begin = start[at(task / heads)], length = start[at(task / heads) + 1] - begin;
    Index const head = task % heads, group = head / per_group;
    T const* const q = qkv.data() + begin * ld + head * d;
    transpose_in_thread(length, d, qkv.data() + begin * ld + (heads + group) * d, ld, b.k_transposed, length);
    Rows<R> const v = in_reals(length, d, qkv.data() + begin * ld + (heads + groups + group) * d, ld, b.v);
    for (Index first = 0; first < length; first += kQueryBlock) {
      Index const queries = std::min(kQueryBlock, length - first), end = first + queries;
      Rows<R> const query = in_reals(queries, d, q + first * ld, ld, b.q);
      std::fill_n(b.largest, queries, -std::numeric_limits<R>::infinity());
      std::fill_n(b.sum, queries, R(0));
      for (Index key = 0; key < end; key += kKeyBlock) {
        Index const keys = std::min(kKeyBlock, end - key);
        gemm_in_thread<R>(Op::none, Op::none, queries, keys, d, 1, query[0], query.stride,
                          b.k_transposed + key, length, 0, b.score, keys);
        for (Index i = 0; i < queries; ++i) {
          R const shrunk = kernels::softmax_block_row(b.score + i * keys, std::min(keys, first + i + 1 - key),
                                                      keys, scale, b.largest[i], b.sum[i]);
          if (key == 0 || shrunk == R(1)) continue;
          R* const out = b.out + i * d;
          kernels::row_for(Index{0}, d, [=](Index const c) { out[c] *= shrunk; });
        }
        gemm_in_thread<R>(Op::none, Op::none, queries, d, keys, 1, b.score, keys, v[key], v.stride,
                          key == 0 ? R(0) : R(1), b.out, d);
      }
      for (Index i = 0; i < queries; ++i) {
        R const* const out = b.out + i * d;
        T* const to = attended.data() + (begin + first + i) * ld_out + head * d;
        R const inverse = R(1) / b.sum[i];
        kernels::row_for(Index{0}, d, [=](Index const c) { to[c] = static_cast<T>(out[c] * inverse); });
        log_sum_exp(begin + first + i, head) = b.largest[i] + std::log(b.sum[i]);
      }
    }
  });
}

template <class T>
void Attention<T>::backward(Exec const& exec, View2<T const> qkv, std::vector<Index> const& start,
                            View2<Real<T> const> log_sum_exp, View2<T const> dattended,
                            View2<Real<T> const> delta, View2<T> dqkv) const {
  using R = Real<T>;
  Index const d = head_width_, heads = heads_, groups = groups_, per_group = heads / groups;
  Index const ld = static_cast<Index>(qkv.extent(1)), ld_out = heads * d;
  Index const segments = static_cast<Index>(start.size()) - 1;
  auto const scale = static_cast<R>(1.0 / std::sqrt(static_cast<double>(d)));
  // One task owns all query heads of a key-value head, so that sums into dk and dv stay in one thread.
  for_each_task(exec, "upit::attention_backward", threads_, segments * groups, [&](Index task, Index thread) {
    Buffers<T> const b(&scratch_(thread, 0), longest_, d, true);
    Index const begin = start[at(task / groups)], length = start[at(task / groups) + 1] - begin;
    Index const k_column = (heads + task % groups) * d, v_column = k_column + groups * d;
    T const* const row = qkv.data() + begin * ld;
    T* const drow = dqkv.data() + begin * ld;
    transpose_in_thread(length, d, row + k_column, ld, b.k_transposed, length);
    transpose_in_thread(length, d, row + v_column, ld, b.v_transposed, length);
    Rows<R> const k = in_reals(length, d, row + k_column, ld, b.k);
    std::fill_n(b.dk, length * d, R(0));
    std::fill_n(b.dv, length * d, R(0));
    for (Index head = (task % groups) * per_group; head < (task % groups + 1) * per_group; ++head) {
      for (Index first = 0; first < length; first += kQueryBlock) {
        Index const queries = std::min(kQueryBlock, length - first), end = first + queries;
        Rows<R> const q = in_reals(queries, d, row + first * ld + head * d, ld, b.q);
        Rows<R> const dout =
            in_reals(queries, d, dattended.data() + (begin + first) * ld_out + head * d, ld_out, b.dout);
        for (Index key = 0; key < end; key += kKeyBlock) {
          Index const keys = std::min(kKeyBlock, end - key);
          gemm_in_thread<R>(Op::none, Op::none, queries, keys, d, 1, q[0], q.stride, b.k_transposed + key,
                            length, 0, b.score, keys);
          gemm_in_thread<R>(Op::none, Op::none, queries, keys, d, 1, dout[0], dout.stride,
                            b.v_transposed + key, length, 0, b.dscore, keys);
          for (Index i = 0; i < queries; ++i) {
            kernels::softmax_backward_row(
                b.score + i * keys, b.dscore + i * keys, std::min(keys, first + i + 1 - key), keys, scale,
                log_sum_exp(begin + first + i, head), delta(begin + first + i, head));
          }
          gemm_in_thread<R>(Op::transpose, Op::none, keys, d, queries, 1, b.score, keys, dout[0], dout.stride,
                            1, b.dv + key * d, d);
          gemm_in_thread<R>(Op::none, Op::none, queries, d, keys, 1, b.dscore, keys, k[key], k.stride,
                            key == 0 ? R(0) : R(1), b.out, d);
          gemm_in_thread<R>(Op::transpose, Op::none, keys, d, queries, 1, b.dscore, keys, q[0], q.stride, 1,
                            b.dk + key * d, d);
        }
        store(queries, d, b.out, drow + first * ld + head * d, ld);
      }
    }
    store(length, d, b.dk, drow + k_column, ld);
    store(length, d, b.dv, drow + v_column, ld);
  });
}

template class Attention<float>;
template class Attention<double>;
template class Attention<bfloat16>;

}  // namespace upit
