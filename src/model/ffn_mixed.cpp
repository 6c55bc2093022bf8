// SPDX-License-Identifier: Apache-2.0
// Owns the "ffn" form of LoRA mixing: o = sum_k g_k FFN_k(h), FFN_k the base FFN under expert k's matrices.
// Slots (token, k) are sorted by expert; only low-rank products and activations run per slot.
#include "ffn_parts.hpp"
#include "upit/kernels/dispatch.hpp"
#include "upit/kernels/low_rank_gate.hpp"
#include "upit/kernels/slot_swiglu.hpp"
#include "upit/kernels/slot_tokens.hpp"
#include "upit/model/products.hpp"

namespace upit::detail {
namespace {

template <class T>
void sort_slots(FfnPass<T> const& p) {
  auto const& s = p.state;
  kernels::dispatch_plan(p.exec, s.expert, p.expert.count, s.offset, s.order, s.place);
  Kokkos::deep_copy(p.exec, s.offset_host, s.offset);
  p.exec.fence();  // the grouped products need the counts on the host
  if (p.dropout <= 0.0) return;
  kernels::slot_tokens(p.exec, p.batch.sample(), p.batch.position(), s.order, p.expert.active,
                       p.scratch.slot_sample, p.scratch.slot_position);
}

/// scratch.slot_ffn = the slots' activations under dropout; the mask is the token's, whatever the expert.
template <class T>
View2<T> dropped_slots(FfnPass<T> const& p) {
  if (p.dropout <= 0.0) return p.state.slot_act;
  kernels::dropout_forward<T>(p.exec, p.state.slot_act, p.scratch.slot_sample, p.scratch.slot_position,
                              p.act_mask, static_cast<Real<T>>(p.dropout), p.scratch.slot_ffn);
  return p.scratch.slot_ffn;
}

}  // namespace

template <class T>
void mixed_forward(FfnPass<T> const& p) {
  auto const& [exec, s, w, t] = std::tie(p.exec, p.state, p.parameter, p.scratch);
  Extents<T> const x(p);
  sort_slots(p);
  Index const* const offset = s.offset_host.data();
  drop_h(p);
  linear<T>(exec, s.h, w.gate_up.weight, s.gate_up);
  linear<T>(exec, low_rank_input(p), w.gate_up_a.weight, s.low1);
  kernels::gather_low_rank<T>(exec, s.low1, s.expert, s.order, x.scale, s.slot_low);
  for (int part = 0; part < 2; ++part) {
    T const* const b = part == 0 ? w.gate_b.weight : w.up_b.weight;
    grouped_gemm<T>(exec, x.e, offset, Op::none, x.f, x.r, 1, s.slot_low.data() + part * x.r, 2 * x.r, b, x.f,
                    x.r * x.f, 0, s.slot_gate_up.data() + part * x.f, 2 * x.f);
  }
  kernels::slot_swiglu_forward<T>(exec, s.gate_up, s.slot_gate_up, s.order, x.k, s.slot_act);
  kernels::combine_slots<T>(exec, s.slot_act, s.gate, s.place, s.act);
  linear<T>(exec, s.act, w.down.weight, t.branch);
  grouped_gemm<T>(exec, x.e, offset, Op::transpose, x.r, x.f, 1, dropped_slots(p).data(), x.f,
                  w.down_a.weight, x.f, x.r * x.f, 0, t.slot_low2.data(), x.r);
  kernels::scatter_low_rank<T>(exec, t.slot_low2, s.expert, s.place, Real<T>(1), s.low2);
  kernels::low_rank_gate_forward<T>(exec, s.low2, s.expert, s.gate, x.scale, x.e, 1, s.gated2);
  linear_backward<T>(exec, s.gated2, w.down_b.weight, t.branch, 1);
}

template <class T>
void mixed_backward(FfnPass<T> const& p, bool need_dh) {
  auto const& [exec, s, w, t] = std::tie(p.exec, p.state, p.parameter, p.scratch);
  Extents<T> const x(p);
  Index const* const offset = s.offset_host.data();
  auto const dout = t.dx;
  if (p.dropout > 0.0) {  // of this layer: the scratch has served others since forward
    kernels::slot_tokens(exec, p.batch.sample(), p.batch.position(), s.order, x.k, t.slot_sample,
                         t.slot_position);
  }
  // low-rank part of down
  linear<T>(exec, dout, w.down_b.weight, t.dgated2);
  linear_backward_weight<T>(exec, s.gated2, dout, w.down_b.gradient);
  kernels::low_rank_gate_backward<T>(exec, t.dgated2, s.low2, s.expert, s.gate, x.scale, x.e, 1, t.dlow2,
                                     t.dgate);
  kernels::gather_low_rank<T>(exec, t.dlow2, s.expert, s.order, Real<T>(1), t.slot_low2);
  if (w.down_a.trained()) {
    grouped_gemm_transposed<T>(exec, x.e, offset, x.r, x.f, 1, t.slot_low2.data(), x.r,
                               dropped_slots(p).data(), x.f, 1, w.down_a.gradient, x.f, x.r * x.f);
  }
  // base part of down, then apart into slots
  linear_backward_weight<T>(exec, dout, s.act, w.down.gradient);
  linear_backward<T>(exec, dout, w.down.weight, t.dact);
  kernels::combine_slots_backward<T>(exec, t.dact, s.slot_act, s.gate, s.place, t.dslot_act, t.dgate);
  bool const drop = p.dropout > 0.0;
  T* const through_a = drop ? t.slot_ffn.data() : t.dslot_act.data();
  grouped_gemm<T>(exec, x.e, offset, Op::none, x.f, x.r, 1, t.slot_low2.data(), x.r, w.down_a.weight, x.f,
                  x.r * x.f, drop ? Real<T>(0) : Real<T>(1), through_a, x.f);
  if (drop) {
    kernels::dropout_backward<T>(exec, t.slot_ffn, t.slot_sample, t.slot_position, p.act_mask,
                                 static_cast<Real<T>>(p.dropout), t.dslot_act);
  }
  kernels::slot_swiglu_backward<T>(exec, t.dslot_act, s.gate_up, s.order, x.k, s.slot_gate_up);
  for (int part = 0; part < 2; ++part) {
    Parameter<T> const& b = part == 0 ? w.gate_b : w.up_b;
    T const* const dy = s.slot_gate_up.data() + part * x.f;
    grouped_gemm<T>(exec, x.e, offset, Op::transpose, x.r, x.f, 1, dy, 2 * x.f, b.weight, x.f, x.r * x.f, 0,
                    t.dslot_low.data() + part * x.r, 2 * x.r);
    if (b.trained()) {
      grouped_gemm_transposed<T>(exec, x.e, offset, x.r, x.f, 1, s.slot_low.data() + part * x.r, 2 * x.r, dy,
                                 2 * x.f, 1, b.gradient, x.f, x.r * x.f);
    }
  }
  kernels::scatter_low_rank<T>(exec, t.dslot_low, s.expert, s.place, x.scale, t.dlow1);
  linear_backward_weight<T>(exec, t.dlow1, low_rank_input(p), w.gate_up_a.gradient);
  if (!w.gate_up.trained() && !need_dh) return;
  kernels::sum_slots<T>(exec, s.slot_gate_up, s.place, x.k, s.gate_up);
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
