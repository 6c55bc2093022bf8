// SPDX-License-Identifier: Apache-2.0
// Owns the activation of LoRA experts mixed after whole FFNs: base of the token plus low-rank part of the
// slot.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// SwiGLU of every sorted slot p of token n = order[p] / K: [gate | up] = base[n] + delta[p], act =
/// silu(gate)*up.
///
///   base   (N, 2F)    in   [gate | up] of the base FFN, once per token
///   delta  (N*K, 2F)  in   sorted
///   order  (N*K)      in
///   act    (N*K, F)   out  sorted
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void slot_swiglu_forward(Exec const& exec, View2<T const> const& base, View2<T const> const& delta,
                         View1<int const> const& order, Index active, View2<T> const& act);

/// Backward of `slot_swiglu_forward`; base's gradient is `sum_slots` of the result.
///
///   dact   (N*K, F)   in     sorted
///   base   (N, 2F)    in
///   order  (N*K)      in
///   delta  (N*K, 2F)  inout  in: of the forward; out: gradient of the slot's [gate | up]
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void slot_swiglu_backward(Exec const& exec, View2<T const> const& dact, View2<T const> const& base,
                          View1<int const> const& order, Index active, View2<T> const& delta);

}  // namespace upit::kernels
