// SPDX-License-Identifier: Apache-2.0
// Owns the SwiGLU activation (Shazeer 2020): silu(gate) * up, silu(g) = g / (1 + exp(-g)).
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// act = silu(gate) * up.
///
///   gate_up  (N, 2F)  in   columns [0, F) gate, [F, 2F) up
///   act      (N, F)   out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void swiglu_forward(Exec const& exec, View2<T const> gate_up, View2<T> act);

/// Gradients of gate and up, in the place of gate and up.
///
///   dact     (N, F)   in
///   gate_up  (N, 2F)  in/out  in: gate and up of the forward pass, out: their gradients
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void swiglu_backward(Exec const& exec, View2<T const> dact, View2<T> gate_up);

}  // namespace upit::kernels
