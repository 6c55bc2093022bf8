// SPDX-License-Identifier: Apache-2.0
// Owns what both bodies of the slot_ffn kernels share: their arguments and SwiGLU with its derivatives.
#pragma once

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"
#include "upit/kernels/slot_ffn.hpp"

namespace upit::kernels::slots {

// The arguments as a kernel wants them: pointers, which a host loop keeps in registers.
template <class T>
struct Slots {
  T const *gate_b, *up_b, *down_a, *low, *mask;
  int const *expert, *order, *place;
  Index const* offset;
  Real<T> const* gate;
  Index tokens, experts, active, rank, width;
};

template <class T>
struct Gradients {
  T const *dact, *dlow2;
  T *base, *slot_act, *dslot;
  Real<T>*dlow, *dgate;
};

// Where gate and up, a slot's own, meet their derivatives.
template <class R>
struct Swiglu {
  R act, dgate, dup;  // silu(gate) * up; its derivatives
  KOKKOS_FORCEINLINE_FUNCTION Swiglu(R gate, R up) {
    R const sigmoid = R(1) / (R(1) + fast_exp(-gate));
    dup = gate * sigmoid;
    act = dup * up;
    dgate = up * sigmoid * (R(1) + gate * (R(1) - sigmoid));
  }
};

}  // namespace upit::kernels::slots
