// SPDX-License-Identifier: Apache-2.0
// Owns the way of tokens to experts and back. Slot s = n*K + k is token n's k-th choice.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Sorts the slots by expert; slots of one expert keep their order (a stable counting sort).
///
///   expert   (N, K)   in   ids in [0, experts)
///   offset   (E + 1)  out  first sorted place of each expert; offset[E] = N*K
///   order    (N*K)    out  slot at each sorted place
///   place    (N*K)    out  its inverse: sorted place of each slot
///
/// No atomics, no scratch: counts wait in `place` until it is filled. Throws `std::logic_error` if N*K does
/// not fit into an int.
///
/// Enqueued on `exec`, not finished, when it returns.
void dispatch_plan(Exec const& exec, View2<int const> const& expert, Index experts,
                   View1<Index> const& offset, View1<int> const& order, View1<int> const& place);

/// y[p] = x[order[p] / K].
///
///   x      (N, C)    in
///   order  (N*K)     in
///   y      (N*K, C)  out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void gather_slots(Exec const& exec, View2<T const> const& x, View1<int const> const& order, Index active,
                  View2<T> const& y);

/// out[n] = sum_k gate[n, k] * y[place[n*K + k]], serial in k; with `accumulate`, out[n] += that.
///
///   y      (N*K, C)  in   sorted
///   gate   (N, K)    in
///   place  (N*K)     in
///   out    (N, C)    out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void combine_slots(Exec const& exec, View2<T const> const& y, View2<Real<T> const> const& gate,
                   View1<int const> const& place, View2<T> const& out, bool accumulate = false);

/// Backward of `combine_slots`.
///
///   dout   (N, C)    in
///   y      (N*K, C)  in   sorted, of the forward
///   gate   (N, K)    in
///   place  (N*K)     in
///   dy     (N*K, C)  out  overwritten, sorted: gate * dout; may be y
///   dgate  (N, K)    out  accumulated: += dot(dout[n], y[place[n*K + k]])
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void combine_slots_backward(Exec const& exec, View2<T const> const& dout, View2<T const> const& y,
                            View2<Real<T> const> const& gate, View1<int const> const& place,
                            View2<T> const& dy, View2<Real<T>> const& dgate);

/// out[n] = sum_k y[place[n*K + k]], serial in k: the backward of `gather_slots`.
///
///   y      (N*K, C)  in   sorted
///   place  (N*K)     in
///   out    (N, C)    out  overwritten; with `accumulate`, out[n] += the sum
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void sum_slots(Exec const& exec, View2<T const> const& y, View1<int const> const& place, Index active,
               View2<T> const& out, bool accumulate = false);

}  // namespace upit::kernels
