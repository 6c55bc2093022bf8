// SPDX-License-Identifier: Apache-2.0
// Owns what LoRA experts mixed after whole FFNs add to the base FFN between gate and down, slot by slot.
#pragma once

#include "upit/core/types.hpp"
#include "upit/kernels/row.hpp"

namespace upit::kernels {

/// Whether `slot_ffn_forward` writes slot_act: devices do, hosts keep it in cache.
inline constexpr bool kSlotFfnForwardKeepsAct = !kHostRows;

/// Slots s = n*K + k of the tokens, their experts and the experts' matrices, all of one layer.
template <class T>
struct SlotFfn {
  View3<T const> gate_b, up_b, down_a;  // (E, R, F)
  View2<T const> low;                   // (S, 2R) sorted: scaled, of gate and of up
  View2<int const> expert;              // (N, K)
  View2<Real<T> const> gate;            // (N, K) the router's
  View1<Index const> offset;            // (E + 1) first sorted place of each expert
  View1<int const> order, place;        // (S) slot at each sorted place; its inverse
  View2<T const> mask;                  // (N, F) dropout of A of down: 0 or 1; without rows: none
};

/// For every slot, sorted to p, of token n with expert e:
///
///     gate = base[n, :F] + low[p, :R] gate_b[e],  up = base[n, F:] + low[p, R:] up_b[e]
///     a = silu(gate) * up,  act[n] = sum_k g_k a,  low2[p] = down_a[e] (mask[n] * a)
///
///   base      (N, 2F)  in   [gate | up] of the base FFN
///   act       (N, F)   out
///   slot_act  (S, F)   out  sorted: mask * a; unless kSlotFfnForwardKeepsAct not written and may be empty
///   low2      (S, R)   out  sorted
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void slot_ffn_forward(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& base,
                      View2<T> const& act, View2<T> const& slot_act, View2<Real<T>> const& low2);

/// Backward of `slot_ffn_forward`; a is computed anew.
///
///   dact      (N, F)   in
///   dlow2     (S, R)   in     sorted
///   base      (N, 2F)  inout  in: of the forward; out: its gradient
///   slot_act  (S, F)   out    sorted: mask * a, which the gradient of down_a needs
///   dslot     (S, 2F)  out    sorted: gradient of the slot's [gate | up]
///   dlow      (S, 2R)  out    sorted
///   dgate     (N, K)   out    accumulated
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void slot_ffn_backward(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& dact,
                       View2<T const> const& dlow2, View2<T> const& base, View2<T> const& slot_act,
                       View2<T> const& dslot, View2<Real<T>> const& dlow, View2<Real<T>> const& dgate);

/// The same two as devices run them, a team a token, in every build: slot_act is written by both.
template <class T>
void slot_ffn_forward_by_teams(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& base,
                               View2<T> const& act, View2<T> const& slot_act, View2<Real<T>> const& low2);
template <class T>
void slot_ffn_backward_by_teams(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& dact,
                                View2<T const> const& dlow2, View2<T> const& base, View2<T> const& slot_act,
                                View2<T> const& dslot, View2<Real<T>> const& dlow,
                                View2<Real<T>> const& dgate);

}  // namespace upit::kernels
