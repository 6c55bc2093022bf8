// SPDX-License-Identifier: Apache-2.0
#include "upit/model/ffn_block.hpp"

#include <type_traits>

#include "ffn_parts.hpp"
#include "upit/core/profiling.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/kernels/low_rank_gate.hpp"
#include "upit/kernels/router.hpp"
#include "upit/kernels/swiglu.hpp"
#include "upit/linalg/tf32.hpp"
#include "upit/model/ffn_experts.hpp"
#include "upit/model/products.hpp"

namespace upit {
namespace detail {

template <class T>
void backward_through_a(FfnPass<T> const& p) {
  auto const& s = p.scratch;
  if (p.dropout > 0.0) {
    linear_backward<T>(p.exec, s.dlow1, p.parameter.gate_up_a.weight, s.width);
    kernels::dropout_backward<T>(p.exec, s.width, p.batch.sample(), p.batch.position(), p.h_mask,
                                 static_cast<Real<T>>(p.dropout), s.dh);
  } else {
    linear_backward<T>(p.exec, s.dlow1, p.parameter.gate_up_a.weight, s.dh, 1);
  }
}

/// h as the router's products in Real<T> want it. One pass over h against the products of a whole layer: not
/// worth a product of mixed types, which no library has.
template <class T>
View2<Real<T>> router_input(FfnPass<T> const& p) {
  if constexpr (std::is_same_v<T, Real<T>>) {
    return p.state.h;
  } else {
    kernels::convert<Real<T>, T>(p.exec, p.state.h, p.scratch.wide);
    return p.scratch.wide;
  }
}

/// LoRA in every linear, gated in place: experts that a token did not choose have gate 0, so that all experts
/// of a layer are one product with E*R rows.
template <class T>
void branch_forward(FfnPass<T> const& p) {
  auto const& [exec, s, w] = std::tie(p.exec, p.state, p.parameter);
  Extents<T> const x(p);
  drop_h(p);
  linear<T>(exec, s.h, w.gate_up.weight, s.gate_up);
  linear<T>(exec, low_rank_input(p), w.gate_up_a.weight, s.low1);
  kernels::low_rank_gate_forward<T>(exec, s.low1, s.expert, s.gate, x.scale, x.e, 2, s.gated1);
  for (int part = 0; part < 2; ++part) {
    T const* const b = part == 0 ? w.gate_b.weight : w.up_b.weight;
    gemm<T>(exec, Op::none, Op::none, x.n, x.f, x.er, 1, s.gated1.data() + part * x.er, 2 * x.er, b, x.f, 1,
            s.gate_up.data() + part * x.f, 2 * x.f);
  }
  kernels::swiglu_forward<T>(exec, s.gate_up, s.act);
  View2<T> down_input = s.act;
  if (p.dropout > 0.0) {
    kernels::dropout_forward<T>(exec, s.act, p.batch.sample(), p.batch.position(), p.act_mask,
                                static_cast<Real<T>>(p.dropout), s.act_dropped);
    down_input = s.act_dropped;
  }
  linear<T>(exec, s.act, w.down.weight, p.scratch.branch);
  linear<T>(exec, down_input, w.down_a.weight, s.low2);
  kernels::low_rank_gate_forward<T>(exec, s.low2, s.expert, s.gate, x.scale, x.e, 1, s.gated2);
  linear_backward<T>(exec, s.gated2, w.down_b.weight, p.scratch.branch, 1);  // B is stored transposed
}

template <class T>
void branch_backward(FfnPass<T> const& p, bool need_dh) {
  auto const& [exec, s, w, t] = std::tie(p.exec, p.state, p.parameter, p.scratch);
  Extents<T> const x(p);
  auto const dout = t.dx;
  // down: out = act W^T + gated2 B
  linear<T>(exec, dout, w.down_b.weight, t.dgated2);
  linear_backward_weight<T>(exec, s.gated2, dout, w.down_b.gradient);
  kernels::low_rank_gate_backward<T>(exec, t.dgated2, s.low2, s.expert, s.gate, x.scale, x.e, 1, t.dlow2,
                                     t.dgate);
  linear_backward_weight<T>(exec, t.dlow2, p.dropout > 0.0 ? s.act_dropped : s.act, w.down_a.gradient);
  linear_backward_weight<T>(exec, dout, s.act, w.down.gradient);
  linear_backward<T>(exec, dout, w.down.weight, t.dact);
  if (p.dropout > 0.0) {
    linear_backward<T>(exec, t.dlow2, w.down_a.weight, t.ffn);
    kernels::dropout_backward<T>(exec, t.ffn, p.batch.sample(), p.batch.position(), p.act_mask,
                                 static_cast<Real<T>>(p.dropout), t.dact);
  } else {
    linear_backward<T>(exec, t.dlow2, w.down_a.weight, t.dact, 1);
  }
  kernels::swiglu_backward<T>(exec, t.dact, s.gate_up);
  // gate and up: gate_up = h W^T + [gated_gate B_gate | gated_up B_up]
  for (int part = 0; part < 2; ++part) {
    Parameter<T> const& b = part == 0 ? w.gate_b : w.up_b;
    T const* const dy = s.gate_up.data() + part * x.f;
    gemm<T>(exec, Op::none, Op::transpose, x.n, x.er, x.f, 1, dy, 2 * x.f, b.weight, x.f, 0,
            t.dgated1.data() + part * x.er, 2 * x.er);
    if (b.trained()) {
      gemm<T>(exec, Op::transpose, Op::none, x.er, x.f, x.n, 1, s.gated1.data() + part * x.er, 2 * x.er, dy,
              2 * x.f, 1, b.gradient, x.f);
    }
  }
  kernels::low_rank_gate_backward<T>(exec, t.dgated1, s.low1, s.expert, s.gate, x.scale, x.e, 2, t.dlow1,
                                     t.dgate);
  linear_backward_weight<T>(exec, t.dlow1, low_rank_input(p), w.gate_up_a.gradient);
  linear_backward_weight<T>(exec, s.gate_up, s.h, w.gate_up.gradient);
  if (!need_dh) return;
  linear_backward<T>(exec, s.gate_up, w.gate_up.weight, t.dh);
  backward_through_a(p);
}

template <class T>
void dense_backward(FfnPass<T> const& p, bool need_dh) {
  auto const& [exec, s, w, t] = std::tie(p.exec, p.state, p.parameter, p.scratch);
  linear_backward_weight<T>(exec, t.dx, s.act, w.down.gradient);
  linear_backward<T>(exec, t.dx, w.down.weight, t.dact);
  kernels::swiglu_backward<T>(exec, t.dact, s.gate_up);
  linear_backward_weight<T>(exec, s.gate_up, s.h, w.gate_up.gradient);
  if (need_dh) linear_backward<T>(exec, s.gate_up, w.gate_up.weight, t.dh);
}

template void backward_through_a(FfnPass<float> const&);
template void backward_through_a(FfnPass<double> const&);
template void backward_through_a(FfnPass<bfloat16> const&);

}  // namespace detail

template <class T>
void route_tokens(FfnPass<T> const& p) {
  auto const& s = p.state;
  {
    FullFp32 const digits;  // logits decide discretely: fewer digits would choose other experts
    linear<Real<T>>(p.exec, detail::router_input(p), p.parameter.router.weight, s.logits);
  }
  if (p.expert.router != RouterUse::gate) return;
  bool const softmax_first = p.expert.order == RouterOrder::softmax_topk;
  auto const whole =
      static_cast<Real<T>>(static_cast<double>(p.expert.count) / static_cast<double>(p.expert.active));
  kernels::router_topk<Real<T>>(p.exec, softmax_first, whole, s.logits, s.expert, s.gate, s.probability);
}

template <class T>
void ffn_forward(FfnPass<T> const& p) {
  ProfilingRegion const region("upit::ffn_forward");
  if (p.expert.router != RouterUse::none) route_tokens(p);
  if (p.expert.mixes_ffns()) {
    p.experts->forward(p, p.layer);
  } else if (detail::mixes_slots(p)) {
    detail::mixed_forward(p);
  } else if (p.expert.has_lora()) {
    detail::branch_forward(p);
  } else {
    linear<T>(p.exec, p.state.h, p.parameter.gate_up.weight, p.state.gate_up);
    kernels::swiglu_forward<T>(p.exec, p.state.gate_up, p.state.act);
    linear<T>(p.exec, p.state.act, p.parameter.down.weight, p.scratch.branch);
  }
}

template <class T>
void ffn_backward(FfnPass<T> const& p, View1<Real<T>> const& balance, bool need_dh) {
  ProfilingRegion const region("upit::ffn_backward");
  auto const& [s, t] = std::tie(p.state, p.scratch);
  bool const gating = p.expert.router == RouterUse::gate;
  if (gating) Kokkos::deep_copy(p.exec, elements(t.dgate), Real<T>(0));
  if (p.expert.mixes_ffns()) {
    p.experts->backward(p, p.layer, need_dh);
  } else if (detail::mixes_slots(p)) {
    detail::mixed_backward(p, need_dh);
  } else if (p.expert.has_lora()) {
    detail::branch_backward(p, need_dh);
  } else {
    detail::dense_backward(p, need_dh);
  }
  if (p.expert.router == RouterUse::none) return;
  if (gating) {
    bool const softmax_first = p.expert.order == RouterOrder::softmax_topk;
    auto const whole =
        static_cast<Real<T>>(static_cast<double>(p.expert.count) / static_cast<double>(p.expert.active));
    kernels::router_backward<Real<T>>(p.exec, softmax_first, whole, s.probability, s.expert, s.gate, t.dgate,
                                      balance, t.dlogits);
  }
  auto const& router = p.parameter.router;
  {
    FullFp32 const digits;  // these gradients move weights whose logits decide discretely
    if (router.trained()) {
      linear_backward_weight<Real<T>>(p.exec, t.dlogits, detail::router_input(p), router.gradient);
    }
    if (!need_dh) return;
    if constexpr (std::is_same_v<T, Real<T>>) {
      linear_backward<T>(p.exec, t.dlogits, router.weight, t.dh, 1);
    } else {
      linear_backward<Real<T>>(p.exec, t.dlogits, router.weight, t.wide);
    }
  }
  if constexpr (!std::is_same_v<T, Real<T>>) kernels::add_wide<T>(p.exec, t.wide, t.dh);
}

template void route_tokens(FfnPass<float> const&);
template void route_tokens(FfnPass<double> const&);
template void route_tokens(FfnPass<bfloat16> const&);
template void ffn_forward(FfnPass<float> const&);
template void ffn_forward(FfnPass<double> const&);
template void ffn_forward(FfnPass<bfloat16> const&);
template void ffn_backward(FfnPass<float> const&, View1<float> const&, bool);
template void ffn_backward(FfnPass<double> const&, View1<double> const&, bool);
template void ffn_backward(FfnPass<bfloat16> const&, View1<float> const&, bool);

}  // namespace upit
