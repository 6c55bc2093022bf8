// SPDX-License-Identifier: Apache-2.0
// Owns the slot_ffn kernels' body of devices: a team takes a token, and an element's way stays in the
// registers of one thread. Compiled in every build, so that hosts can test it.
#pragma once

#include "slot_ffn_slots.hpp"

namespace upit::kernels::slots {

// base + sum over r of x[r] b[r*stride]
template <class R, class T>
KOKKOS_FORCEINLINE_FUNCTION R low_rank_element(R base, T const* x, Index rank, T const* b, Index stride) {
  for (Index r = 0; r < rank; ++r) base += R(x[r]) * R(b[r * stride]);
  return base;
}

// out[r] = dot(b[r], x), by the threads of a row
template <class R, class T, class AnyRow>
KOKKOS_FORCEINLINE_FUNCTION void row_dots(AnyRow const& row, T const* b, Index stride, Index rank, T const* x,
                                          Index n, R* out) {
  for (Index r = 0; r < rank; ++r) {
    T const* const from = b + r * stride;
    R const dot = row_sum<R>(row, n, [=](Index const i) { return R(from[i]) * R(x[i]); });
    row_once(row, [=] { out[r] = dot; });
  }
}

template <class T, class AnyRow>
KOKKOS_FORCEINLINE_FUNCTION void device_forward(AnyRow const& row, Slots<T> const& s, Index token,
                                                T const* base, T* act, T* slot_act, Real<T>* low2) {
  using R = Real<T>;
  Index const F = s.width;
  T const* const mask = s.mask == nullptr ? nullptr : s.mask + token * F;
  row_for(row, F, [=](Index const f) {
    R sum = 0;
    for (Index k = 0; k < s.active; ++k) {
      Index const slot = token * s.active + k, p = s.place[slot];
      Index const at = s.expert[slot] * s.rank * F + f;
      T const* const low = s.low + p * 2 * s.rank;
      R const gate = low_rank_element(R(base[f]), low, s.rank, s.gate_b + at, F);
      R const up = low_rank_element(R(base[F + f]), low + s.rank, s.rank, s.up_b + at, F);
      R const a = gate / (R(1) + fast_exp(-gate)) * up;
      sum += s.gate[slot] * a;
      slot_act[p * F + f] = T(mask == nullptr ? a : R(mask[f]) * a);
    }
    act[f] = T(sum);
  });
  row_barrier(row);
  for (Index k = 0; k < s.active; ++k) {
    Index const slot = token * s.active + k, p = s.place[slot];
    row_dots<R>(row, s.down_a + s.expert[slot] * s.rank * F, F, s.rank, slot_act + p * F, F,
                low2 + p * s.rank);
  }
}

template <class T, class AnyRow>
KOKKOS_FORCEINLINE_FUNCTION void device_backward(AnyRow const& row, Slots<T> const& s, Index token,
                                                 Gradients<T> const& d) {
  using R = Real<T>;
  Index const F = s.width;
  T const* const mask = s.mask == nullptr ? nullptr : s.mask + token * F;
  T const* const dact = d.dact + token * F;
  T* const base = d.base + token * 2 * F;
  // The router's gradients need a unmasked: one slot after the other, before base is overwritten.
  for (Index k = 0; k < s.active; ++k) {
    Index const slot = token * s.active + k, p = s.place[slot];
    Index const expert = s.expert[slot] * s.rank * F;
    T const* const low = s.low + p * 2 * s.rank;
    T const* const dlow2 = d.dlow2 + p * s.rank;
    R const g = s.gate[slot];
    R const dot = row_sum<R>(row, F, [=](Index const f) {
      R const gate = low_rank_element(R(base[f]), low, s.rank, s.gate_b + expert + f, F);
      R const up = low_rank_element(R(base[F + f]), low + s.rank, s.rank, s.up_b + expert + f, F);
      R const extra = low_rank_element(R(0), dlow2, s.rank, s.down_a + expert + f, F);
      R const kept = mask == nullptr ? R(1) : R(mask[f]);
      Swiglu<R> const swiglu(gate, up);
      R const da = g * R(dact[f]) + kept * extra;
      d.slot_act[p * F + f] = T(kept * swiglu.act);
      d.dslot[p * 2 * F + f] = T(da * swiglu.dgate);
      d.dslot[p * 2 * F + F + f] = T(da * swiglu.dup);
      return R(dact[f]) * swiglu.act;
    });
    row_once(row, [=] { d.dgate[slot] += dot; });
    row_barrier(row);
    row_dots<R>(row, s.gate_b + expert, F, s.rank, d.dslot + p * 2 * F, F, d.dlow + p * 2 * s.rank);
    row_dots<R>(row, s.up_b + expert, F, s.rank, d.dslot + p * 2 * F + F, F,
                d.dlow + p * 2 * s.rank + s.rank);
  }
  row_for(row, F, [=](Index const f) {
    R gate_sum = 0, up_sum = 0;
    for (Index k = 0; k < s.active; ++k) {
      T const* const from = d.dslot + static_cast<Index>(s.place[token * s.active + k]) * 2 * F;
      gate_sum += R(from[f]);
      up_sum += R(from[F + f]);
    }
    base[f] = T(gate_sum);
    base[F + f] = T(up_sum);
  });
}

}  // namespace upit::kernels::slots
