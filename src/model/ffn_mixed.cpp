// SPDX-License-Identifier: Apache-2.0
// Owns the "ffn" form of LoRA mixing: o = sum_k g_k FFN_k(h), FFN_k the base FFN under expert k's matrices.
// Slots (token, k) are sorted by expert; only low-rank products and activations run per slot. Backward
// computes the activations of slots anew: keeping them would cost S * 3F numbers a layer, and no less time.
#include "ffn_parts.hpp"
#include "upit/kernels/dispatch.hpp"
#include "upit/kernels/low_rank_gate.hpp"
#include "upit/kernels/slot_ffn.hpp"
#include "upit/model/products.hpp"

namespace upit::detail {
namespace {

template <class T>
void sort_slots(FfnPass<T> const& p) {
  auto const& s = p.state;
  kernels::dispatch_plan(p.exec, s.expert, p.expert.count, s.offset, s.order, s.place);
  Kokkos::deep_copy(p.exec, s.offset_host, s.offset);
  p.exec.fence();  // the grouped products need the counts on the host
}

/// What keeps an element of a under dropout; the mask is the token's, whatever the expert.
template <class T>
kernels::SlotFfn<T> slots_of(FfnPass<T> const& p) {
  auto const& [s, w] = std::tie(p.state, p.parameter);
  Extents<T> const x(p);
  auto const stack = [&](Parameter<T> const& m) { return View3<T const>(m.weight, x.e, x.r, x.f); };
  return {stack(w.gate_b), stack(w.up_b),
          stack(w.down_a), s.slot_low,
          s.expert,        s.gate,
          s.offset,        s.order,
          s.place,         p.dropout > 0.0 ? p.scratch.mask : View2<T>()};
}

/// scratch.mask, which serves every layer: drawn in forward, and again in backward.
template <class T>
void draw_mask(FfnPass<T> const& p) {
  if (p.dropout <= 0.0) return;
  kernels::dropout_mask<T>(p.exec, p.batch.sample(), p.batch.position(), p.act_mask,
                           static_cast<Real<T>>(p.dropout), p.scratch.mask);
}

/// What a mask of 0 and 1 leaves out of dropout; low2 and its gradient carry it.
template <class T>
Real<T> mask_factor(FfnPass<T> const& p) {
  return p.dropout > 0.0 ? Real<T>(1) / (Real<T>(1) - static_cast<Real<T>>(p.dropout)) : Real<T>(1);
}

}  // namespace

template <class T>
void mixed_forward(FfnPass<T> const& p) {
  auto const& [exec, s, w, t] = std::tie(p.exec, p.state, p.parameter, p.scratch);
  Extents<T> const x(p);
  sort_slots(p);
  drop_h(p);
  linear<T>(exec, s.h, w.gate_up.weight, s.gate_up);
  linear<T>(exec, low_rank_input(p), w.gate_up_a.weight, s.low1);
  kernels::gather_low_rank<T>(exec, s.low1, s.expert, s.order, x.scale, s.slot_low);
  draw_mask(p);
  kernels::slot_ffn_forward<T>(exec, slots_of(p), s.gate_up, s.act, t.slot_act, t.slot_low2);
  linear<T>(exec, s.act, w.down.weight, t.branch);
  kernels::scatter_low_rank<T>(exec, t.slot_low2, s.expert, s.place, mask_factor(p), s.low2);
  kernels::low_rank_gate_forward<T>(exec, s.low2, s.expert, s.gate, x.scale, x.e, 1, s.gated2);
  linear_backward<T>(exec, s.gated2, w.down_b.weight, t.branch, 1);
}

template <class T>
void mixed_backward(FfnPass<T> const& p, bool need_dh) {
  auto const& [exec, s, w, t] = std::tie(p.exec, p.state, p.parameter, p.scratch);
  Extents<T> const x(p);
  Index const* const offset = s.offset_host.data();
  auto const dout = t.dx;
  linear<T>(exec, dout, w.down_b.weight, t.dgated2);
  linear_backward_weight<T>(exec, s.gated2, dout, w.down_b.gradient);
  kernels::low_rank_gate_backward<T>(exec, t.dgated2, s.low2, s.expert, s.gate, x.scale, x.e, 1, t.dlow2,
                                     t.dgate);
  kernels::gather_low_rank<T>(exec, t.dlow2, s.expert, s.order, mask_factor(p), t.dslot_low2);
  linear_backward_weight<T>(exec, dout, s.act, w.down.gradient);
  linear_backward<T>(exec, dout, w.down.weight, t.dact);
  draw_mask(p);
  kernels::slot_ffn_backward<T>(exec, slots_of(p), t.dact, t.dslot_low2, s.gate_up, t.slot_act,
                                t.dslot_gate_up, t.dslot_low, t.dgate);
  if (w.down_a.trained()) {
    grouped_gemm_transposed<T>(exec, x.e, offset, x.r, x.f, 1, t.dslot_low2.data(), x.r, t.slot_act.data(),
                               x.f, 1, w.down_a.gradient, x.f, x.r * x.f);
  }
  for (int part = 0; part < 2; ++part) {
    Parameter<T> const& b = part == 0 ? w.gate_b : w.up_b;
    if (!b.trained()) continue;
    grouped_gemm_transposed<T>(exec, x.e, offset, x.r, x.f, 1, s.slot_low.data() + part * x.r, 2 * x.r,
                               t.dslot_gate_up.data() + part * x.f, 2 * x.f, 1, b.gradient, x.f, x.r * x.f);
  }
  kernels::scatter_low_rank<T>(exec, t.dslot_low, s.expert, s.place, x.scale, t.dlow1);
  linear_backward_weight<T>(exec, t.dlow1, low_rank_input(p), w.gate_up_a.gradient);
  linear_backward_weight<T>(exec, s.gate_up, s.h, w.gate_up.gradient);
  if (!need_dh) return;
  linear_backward<T>(exec, s.gate_up, w.gate_up.weight, t.dh);
  backward_through_a(p);
}

template void mixed_forward(FfnPass<float> const&);
template void mixed_forward(FfnPass<double> const&);
template void mixed_forward(FfnPass<bfloat16> const&);
template void mixed_backward(FfnPass<float> const&, bool);
template void mixed_backward(FfnPass<double> const&, bool);
template void mixed_backward(FfnPass<bfloat16> const&, bool);

}  // namespace upit::detail
