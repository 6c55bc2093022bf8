// SPDX-License-Identifier: Apache-2.0
// Owns buffers and products of FFN experts; ffn_exchange.cpp owns what several ranks do together.
#include "upit/model/ffn_experts.hpp"

#include <algorithm>

#include "upit/kernels/dispatch.hpp"
#include "upit/kernels/swiglu.hpp"
#include "upit/linalg/gemm.hpp"
#include "upit/model/ffn_block.hpp"

namespace upit {

ExpertRange ExpertParallel::held(Index experts) const {
  if (!spread()) return {0, experts};
  auto const first = expert_ranges(experts, grid->expert().size());
  auto const q = static_cast<std::size_t>(grid->expert().rank());
  return {first[q], first[q + 1] - first[q]};
}

template <class T>
ExpertBytes expert_bytes(ModelConfig const& model, ExpertConfig const& expert, Index slots, Index rows,
                         bool spread, bool with_backward) {
  auto const real = static_cast<Index>(sizeof(T)), integer = static_cast<Index>(sizeof(int));
  Index const c = model.width, f = model.ffn;
  Index const kept = real * rows * (c + 3 * f);  // x, gate and up, act
  ExpertBytes bytes;
  bytes.per_layer = 2 * static_cast<Index>(sizeof(Index)) * (expert.count + 1) + 2 * integer * slots +
                    real * slots * c + kept;
  if (spread) bytes.once += real * rows * 2 * c + 2 * integer * rows + kept;
  if (spread || with_backward) bytes.once += real * slots * c;
  if (with_backward) bytes.once += real * rows * f;
  return bytes;
}

template <class T>
template <class V>
V FfnExperts<T>::make(char const* name, Index rows, Index columns) {
  auto const label =
      Kokkos::view_alloc(std::string("upit::ffn_experts.") + name, Kokkos::WithoutInitializing);
  V view;
  if constexpr (V::rank == 1) {
    view = V(label, rows * columns);
  } else {
    view = V(label, rows, columns);
  }
  bytes_ += static_cast<Index>(view.span() * sizeof(typename V::value_type));
  return view;
}

template <class T>
typename FfnExperts<T>::Rows FfnExperts<T>::make_rows(char const* name, Index rows) {
  std::string const owner = name;
  return {make<View2<T>>((owner + ".x").c_str(), rows, model_.width),
          make<View2<T>>((owner + ".gate_up").c_str(), rows, 2 * model_.ffn),
          make<View2<T>>((owner + ".act").c_str(), rows, model_.ffn)};
}

template <class T>
typename FfnExperts<T>::Layer FfnExperts<T>::make_layer(Index slots, Index rows) {
  Layer l;
  l.offset = make<View1<Index>>("offset", expert_.count + 1, 1);
  l.offset_host = make<PinnedView1<Index>>("offset_host", expert_.count + 1, 1);
  l.order = make<View1<int>>("order", slots, 1);
  l.place = make<View1<int>>("place", slots, 1);
  l.y = make<View2<T>>("y", slots, model_.width);
  l.kept = make_rows("kept", rows);
  return l;
}

template <class T>
FfnExperts<T>::FfnExperts(ModelConfig const& model, ExpertConfig const& expert,
                          ExpertParallel const& parallel, Index max_tokens, bool with_backward)
    : model_(model), expert_(expert), held_(parallel.held(expert.count).count) {
  Index const slots = max_tokens * expert.active;
  Index rows = slots;
  ExchangeShape shape;
  if (parallel.spread()) {
    Communicator const& group = parallel.grid->expert();
    shape = {expert_ranges(expert.count, group.size()), group.max(slots), parallel.capacity, parallel.chunks};
    rows = exchange_capacity(shape, group.rank());
    exchange_ = std::make_unique<TokenExchange<T>>(group, shape, model.width, parallel.path);
    arrived_ = make<View2<T>>("arrived", rows, model.width);
    sorted_ = make<View2<T>>("sorted", rows, model.width);
    arrival_ = make<View1<int>>("arrival", rows, 1);
    arrival_host_ = make<PinnedView1<int>>("arrival_host", rows, 1);
    further_ = make_rows("further", rows);
    received_.assign(at(model.layers), 0.0);
  }
  for (Index l = 0; l < model.layers; ++l) {
    layers_.push_back(with_backward || l == 0 ? make_layer(slots, rows) : layers_.front());
    if (!exchange_) continue;
    layers_.back().plan = std::make_shared<ExchangePlan>(shape, parallel.grid->expert().rank());
  }
  if (exchange_) piece_[0] = piece_[1] = layers_.front().plan->empty_piece();
  if (exchange_ || with_backward) slots_ = make<View2<T>>("slots", slots, model.width);
  if (with_backward) dact_ = make<View2<T>>("dact", rows, model.ffn);
}

template <class T>
typename FfnExperts<T>::Layer FfnExperts<T>::layer(Index l, Index tokens) const {
  Layer out = layers_[static_cast<std::size_t>(l)];
  Index const slots = tokens * expert_.active;
  out.order = first_rows(out.order, slots);
  out.place = first_rows(out.place, slots);
  out.y = first_rows(out.y, slots);
  if (exchange_) return out;
  out.kept = {first_rows(out.kept.x, slots), first_rows(out.kept.gate_up, slots),
              first_rows(out.kept.act, slots)};
  return out;
}

/// gate_up and act of rows.x.
template <class T>
void FfnExperts<T>::activate(FfnPass<T> const& p, Index const* offset, Rows const& rows) const {
  Index const c = model_.width, f2 = 2 * model_.ffn;
  grouped_gemm<T>(p.exec, held_, offset, Op::transpose, f2, c, 1, rows.x.data(), c,
                  p.parameter.gate_up.weight, c, f2 * c, 0, rows.gate_up.data(), f2);
  kernels::swiglu_forward<T>(p.exec, rows.gate_up, rows.act);
}

template <class T>
void FfnExperts<T>::apply_down(FfnPass<T> const& p, Index const* offset, Rows const& rows,
                               View2<T> const& y) const {
  Index const c = model_.width, f = model_.ffn;
  grouped_gemm<T>(p.exec, held_, offset, Op::transpose, c, f, 1, rows.act.data(), f, p.parameter.down.weight,
                  f, c * f, 0, y.data(), c);
}

/// dy (M, C) in; dx (M, C) out unless it has no rows, and may be dy. rows.gate_up becomes its gradient.
template <class T>
void FfnExperts<T>::differentiate(FfnPass<T> const& p, Index const* offset, Rows const& rows,
                                  View2<T> const& dy, View2<T> const& dx) const {
  Index const c = model_.width, f = model_.ffn, f2 = 2 * f;
  auto const& [gate_up, down] = std::tie(p.parameter.gate_up, p.parameter.down);
  View2<T> const dact = first_rows(dact_, static_cast<Index>(dy.extent(0)));
  grouped_gemm<T>(p.exec, held_, offset, Op::none, f, c, 1, dy.data(), c, down.weight, f, c * f, 0,
                  dact.data(), f);
  if (down.trained()) {
    grouped_gemm_transposed<T>(p.exec, held_, offset, c, f, 1, dy.data(), c, rows.act.data(), f, 1,
                               down.gradient, f, c * f);
  }
  kernels::swiglu_backward<T>(p.exec, dact, rows.gate_up);
  if (gate_up.trained()) {
    grouped_gemm_transposed<T>(p.exec, held_, offset, f2, c, 1, rows.gate_up.data(), f2, rows.x.data(), c, 1,
                               gate_up.gradient, c, f2 * c);
  }
  if (dx.extent(0) == 0) return;
  grouped_gemm<T>(p.exec, held_, offset, Op::none, c, f2, 1, rows.gate_up.data(), f2, gate_up.weight, c,
                  f2 * c, 0, dx.data(), c);
}

template <class T>
void FfnExperts<T>::forward(FfnPass<T> const& p, Index number) {
  auto const& s = p.state;
  Layer const l = layer(number, static_cast<Index>(s.h.extent(0)));
  kernels::dispatch_plan(p.exec, s.expert, expert_.count, l.offset, l.order, l.place);
  Kokkos::deep_copy(p.exec, l.offset_host, l.offset);
  p.exec.fence();  // products and messages are cut on the host
  if (exchange_) {
    exchanged_forward(p, l, number);
  } else {
    kernels::gather_slots<T>(p.exec, s.h, l.order, expert_.active, l.kept.x);
    activate(p, l.offset_host.data(), l.kept);
    apply_down(p, l.offset_host.data(), l.kept, l.y);
  }
  kernels::combine_slots<T>(p.exec, l.y, s.gate, l.place, p.scratch.branch);
}

template <class T>
void FfnExperts<T>::backward(FfnPass<T> const& p, Index number, bool need_dh) {
  auto const& [s, t] = std::tie(p.state, p.scratch);
  Layer const l = layer(number, static_cast<Index>(s.h.extent(0)));
  kernels::combine_slots_backward<T>(p.exec, t.dx, l.y, s.gate, l.place, l.y, t.dgate);
  View2<T> const home = first_rows(slots_, static_cast<Index>(l.y.extent(0)));
  if (exchange_) {
    exchanged_backward(p, l, need_dh);
  } else {
    differentiate(p, l.offset_host.data(), l.kept, l.y, need_dh ? home : View2<T>());
  }
  if (need_dh) kernels::sum_slots<T>(p.exec, home, l.place, expert_.active, t.dh);
}

template <class T>
ExchangeStatistics FfnExperts<T>::take_statistics() {
  if (!exchange_) return {};
  ExchangeStatistics const out = exchange_->statistics();
  exchange_->reset_statistics();
  begin_anew_ = true;
  return out;
}

template ExpertBytes expert_bytes<float>(ModelConfig const&, ExpertConfig const&, Index, Index, bool, bool);
template ExpertBytes expert_bytes<double>(ModelConfig const&, ExpertConfig const&, Index, Index, bool, bool);
template ExpertBytes expert_bytes<bfloat16>(ModelConfig const&, ExpertConfig const&, Index, Index, bool,
                                            bool);
template class FfnExperts<float>;
template class FfnExperts<double>;
template class FfnExperts<bfloat16>;

}  // namespace upit
