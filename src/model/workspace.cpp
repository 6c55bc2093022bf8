// SPDX-License-Identifier: Apache-2.0
#include "upit/model/workspace.hpp"

#include "upit/kernels/slot_ffn.hpp"

namespace upit {
namespace {

template <class V>
V view_of(std::string const& label, Index rows, Index columns) {
  if constexpr (V::rank == 1) {
    return V(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), rows * columns);
  } else {
    return V(Kokkos::view_alloc(label, Kokkos::WithoutInitializing), rows, columns);
  }
}

}  // namespace

template <class T>
template <class V>
V Workspace<T>::make(char const* name, Index rows, Index columns) {
  V const view = view_of<V>(std::string("upit::workspace.") + name, rows, columns);
  bytes_ += static_cast<Index>(view.span() * sizeof(typename V::value_type));
  return view;
}

template <class T>
Workspace<T>::Workspace(ModelConfig const& model, ExpertConfig const& expert, Index max_tokens,
                        bool with_backward)
    : model_(model), expert_(expert) {
  using V2 = View2<T>;
  using R2 = View2<Real<T>>;
  Index const n = max_tokens;
  for (Index l = 0; l < model.layers; ++l) {
    if (with_backward || l == 0) {
      layers_.push_back(make_state(n));
    } else {
      layers_.push_back(layers_.front());
    }
    make_router_state(layers_.back(), n);
  }
  Scratch<T>& s = scratch_;
  Index const c = model.width, f = model.ffn;
  Index const er = expert.count * expert.rank;
  s.branch = make<V2>("branch", n, c);
  if (!std::is_same_v<T, Real<T>> && expert.router != RouterUse::none) s.wide = make<R2>("wide", n, c);
  if (expert.mixes_lora_ffns()) {
    Index const slots = n * expert.active;
    if (with_backward || kernels::kSlotFfnForwardKeepsAct) s.slot_act = make<V2>("slot_act", slots, f);
    s.slot_low2 = make<R2>("slot_low2", slots, expert.rank);
    if (expert.dropout > 0.0) s.mask = make<V2>("mask", n, f);
  }
  if (!with_backward) return;
  Index const q_width = model.heads * model.head_width;
  s.dx = make<V2>("dx", n, c);
  s.dh = make<V2>("dh", n, c);
  s.width = make<V2>("width", n, c);
  s.dattended = make<V2>("dattended", n, q_width);
  s.dqkv = make<V2>("dqkv", n, q_width + 2 * model.kv_heads * model.head_width);
  s.delta = make<R2>("delta", n, model.heads);
  Index const active = expert.router == RouterUse::gate ? expert.active : 0;
  if (expert.router != RouterUse::none) {
    s.dgate = make<R2>("dgate", n, active);
    s.dlogits = make<R2>("dlogits", n, expert.count);
  }
  if (expert.mixes_ffns()) return;
  s.dact = make<V2>("dact", n, f);
  if (!expert.has_lora()) return;
  if (expert.dropout > 0.0 && !expert.mixes_lora_ffns()) s.ffn = make<V2>("ffn", n, f);
  s.dlow1 = make<V2>("dlow1", n, 2 * er);
  s.dlow2 = make<V2>("dlow2", n, er);
  s.dgated2 = make<V2>("dgated2", n, er);
  if (expert.mixes_lora_ffns()) {
    s.dslot_gate_up = make<V2>("dslot_gate_up", n * active, 2 * f);
    s.dslot_low2 = make<V2>("dslot_low2", n * active, expert.rank);
    s.dslot_low = make<R2>("dslot_low", n * active, 2 * expert.rank);
  } else {
    s.dgated1 = make<V2>("dgated1", n, 2 * er);
  }
}

template <class T>
LayerState<T> Workspace<T>::make_state(Index n) {
  using V2 = View2<T>;
  using R1 = View1<Real<T>>;
  using R2 = View2<Real<T>>;
  ModelConfig const& m = model_;
  ExpertConfig const& e = expert_;
  Index const c = m.width, f = m.ffn, q_width = m.heads * m.head_width;
  LayerState<T> s;
  s.x = make<V2>("x", n, c);
  s.rstd_attention = make<R1>("rstd_attention", n, 1);
  s.h_attention = make<V2>("h_attention", n, c);
  s.qkv = make<V2>("qkv", n, q_width + 2 * m.kv_heads * m.head_width);
  s.attended = make<V2>("attended", n, q_width);
  s.log_sum_exp = make<R2>("log_sum_exp", n, m.heads);
  s.x_middle = make<V2>("x_middle", n, c);
  s.rstd_ffn = make<R1>("rstd_ffn", n, 1);
  s.h = make<V2>("h", n, c);
  if (e.mixes_ffns()) return s;  // FfnExperts keeps what they need
  s.gate_up = make<V2>("gate_up", n, 2 * f);
  s.act = make<V2>("act", n, f);
  if (!e.has_lora()) return s;
  bool const slots = e.mixes_lora_ffns();
  Index const er = e.count * e.rank;
  s.h_dropped = e.dropout > 0.0 ? make<V2>("h_dropped", n, c) : s.h;
  s.act_dropped = e.dropout > 0.0 && !slots ? make<V2>("act_dropped", n, f) : s.act;
  s.low1 = make<V2>("low1", n, 2 * er);
  if (!slots) s.gated1 = make<V2>("gated1", n, 2 * er);
  s.low2 = make<V2>("low2", n, er);
  s.gated2 = make<V2>("gated2", n, er);
  if (!slots) return s;
  s.slot_low = make<V2>("slot_low", n * e.active, 2 * e.rank);
  return s;
}

template <class T>
void Workspace<T>::make_router_state(LayerState<T>& s, Index n) {
  using R2 = View2<Real<T>>;
  ExpertConfig const& e = expert_;
  Index const active = e.router == RouterUse::gate ? e.active : 0;
  s.gate = make<R2>("gate", n, active);
  s.expert = make<View2<int>>("expert", n, active);
  if (e.router == RouterUse::none) return;
  s.logits = make<R2>("logits", n, e.count);
  s.probability = make<R2>("probability", n, e.count);
  if (!e.mixes_lora_ffns()) return;
  s.offset = make<View1<Index>>("offset", e.count + 1, 1);
  s.offset_host = make<PinnedView1<Index>>("offset_host", e.count + 1, 1);
  s.order = make<View1<int>>("order", n * active, 1);
  s.place = make<View1<int>>("place", n * active, 1);
}

template <class T>
LayerState<T> Workspace<T>::layer(Index l, Index n) const {
  LayerState<T> s = layers_[static_cast<std::size_t>(l)];
  auto const trim = [n](auto& view) { view = first_rows(view, n); };
  trim(s.x), trim(s.rstd_attention), trim(s.h_attention), trim(s.qkv), trim(s.attended), trim(s.log_sum_exp);
  trim(s.x_middle), trim(s.rstd_ffn), trim(s.h), trim(s.gate_up), trim(s.act), trim(s.h_dropped);
  trim(s.act_dropped), trim(s.low1), trim(s.gated1), trim(s.low2), trim(s.gated2), trim(s.logits);
  trim(s.probability), trim(s.gate), trim(s.expert);
  Index const slots = n * static_cast<Index>(s.expert.extent(1));
  auto const trim_slots = [slots](auto& view) { view = first_rows(view, slots); };
  trim_slots(s.order), trim_slots(s.place), trim_slots(s.slot_low);
  return s;
}

template <class T>
Scratch<T> Workspace<T>::scratch(Index n) const {
  Scratch<T> s = scratch_;
  auto const trim = [n](auto& view) { view = first_rows(view, n); };
  trim(s.branch), trim(s.dx), trim(s.dh), trim(s.width), trim(s.dattended), trim(s.dqkv), trim(s.delta);
  trim(s.dact), trim(s.ffn), trim(s.dlow1), trim(s.dgated1), trim(s.dlow2), trim(s.dgated2), trim(s.dgate);
  trim(s.dlogits), trim(s.wide);
  if (s.mask.extent(0) > 0) trim(s.mask);  // without rows: no dropout
  Index const slots = expert_.router == RouterUse::gate ? n * expert_.active : 0;
  auto const trim_slots = [slots](auto& view) { view = first_rows(view, slots); };
  trim_slots(s.slot_act), trim_slots(s.dslot_gate_up), trim_slots(s.slot_low2), trim_slots(s.dslot_low2);
  trim_slots(s.dslot_low);
  return s;
}

template class Workspace<float>;
template class Workspace<double>;
template class Workspace<bfloat16>;

}  // namespace upit
