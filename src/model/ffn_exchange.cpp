// SPDX-License-Identifier: Apache-2.0
// Owns the order in which pieces of the exchange and the experts' products follow each other.
#include "upit/core/profiling.hpp"
#include "upit/kernels/dispatch.hpp"
#include "upit/kernels/gather.hpp"
#include "upit/model/ffn_block.hpp"
#include "upit/model/ffn_experts.hpp"

namespace upit {
namespace {

template <class T>
View2<T> stretch(View2<T> const& buffer, Index first, Index rows) {
  Index const columns = static_cast<Index>(buffer.extent(1));
  return View2<T>(buffer.data() + first * columns, rows, columns);
}

}  // namespace

template <class T>
View2<T> FfnExperts<T>::arrived(Piece const& piece) const {
  return stretch(arrived_, piece.buffer_row, piece.rows);
}

/// The first round's rows stay for backward, those of later rounds do not.
template <class T>
typename FfnExperts<T>::Rows FfnExperts<T>::rows_of(Layer const& l, Piece const& piece) const {
  Rows const& r = piece.round == 0 ? l.kept : further_;
  return {stretch(r.x, piece.buffer_row, piece.rows), stretch(r.gate_up, piece.buffer_row, piece.rows),
          stretch(r.act, piece.buffer_row, piece.rows)};
}

template <class T>
View1<int const> FfnExperts<T>::arrival(Exec const& exec, ExchangePlan const& plan,
                                        Piece const& piece) const {
  PinnedView1<int> const host(arrival_host_.data() + piece.buffer_row, piece.rows);
  View1<int> const device(arrival_.data() + piece.buffer_row, piece.rows);
  plan.arrival(piece, std::span<int>(host.data(), static_cast<std::size_t>(piece.rows)));
  Kokkos::deep_copy(exec, device, host);
  return device;
}

/// While the experts work on one piece, the next of the same round is on its way and the results of the one
/// before go home. Pieces of different rounds share buffers and wait for each other.
template <class T>
void FfnExperts<T>::exchanged_forward(FfnPass<T> const& p, Layer const& l, Index number) {
  ProfilingRegion const region("upit::experts_forward");
  ExchangePlan& plan = *l.plan;
  exchange_->count(l.offset_host.data(), plan);
  rounds_ = std::max(rounds_, plan.rounds());
  if (begin_anew_) std::fill(received_.begin(), received_.end(), 0.0);
  begin_anew_ = false;
  received_[at(number)] += static_cast<double>(plan.received());
  View2<T> const slots = first_rows(slots_, static_cast<Index>(l.y.extent(0)));
  kernels::gather_slots<T>(p.exec, p.state.h, l.order, expert_.active, slots);

  Pending coming, going;
  auto const begin = [&](Index i) {
    Piece& piece = piece_[i % 2];
    plan.piece(i, piece);
    coming = exchange_->send(p.exec, piece, slots, arrived(piece));
  };
  begin(0);
  for (Index i = 0; i < plan.pieces(); ++i) {
    Piece const& piece = piece_[i % 2];
    coming.wait();
    bool const last = i + 1 == plan.pieces();
    bool const ahead = !last && (i + 1) % plan.shape().chunks != 0;
    if (ahead) begin(i + 1);
    Rows const rows = rows_of(l, piece);
    View2<T> const sorted = stretch(sorted_, piece.buffer_row, piece.rows);
    auto const order = arrival(p.exec, plan, piece);
    kernels::gather_rows<T>(p.exec, arrived(piece), order, rows.x);
    activate(p, piece.expert_offset.data(), rows);
    apply_down(p, piece.expert_offset.data(), rows, sorted);
    kernels::scatter_rows<T>(p.exec, sorted, order, arrived(piece));
    going.wait();
    going = exchange_->send_back(p.exec, piece, arrived(piece), l.y);
    if (last || ahead) continue;
    going.wait();
    begin(i + 1);
  }
  going.wait();
}

/// l.y holds the gradient of every slot's result; slots_ receives that of its input.
template <class T>
void FfnExperts<T>::exchanged_backward(FfnPass<T> const& p, Layer const& l, bool need_dh) {
  ProfilingRegion const region("upit::experts_backward");
  ExchangePlan const& plan = *l.plan;
  View2<T> const slots = first_rows(slots_, static_cast<Index>(l.y.extent(0)));
  if (plan.rounds() > 1) {  // their inputs travel again; other layers have used the buffer since
    kernels::gather_slots<T>(p.exec, p.state.h, l.order, expert_.active, slots);
  }
  Pending coming, going;
  auto const begin = [&](Index i) {
    Piece& piece = piece_[i % 2];
    plan.piece(i, piece);
    if (piece.round > 0) {
      exchange_->send(p.exec, piece, slots, arrived(piece)).wait();
      Rows const rows = rows_of(l, piece);
      kernels::gather_rows<T>(p.exec, arrived(piece), arrival(p.exec, plan, piece), rows.x);
      activate(p, piece.expert_offset.data(), rows);
    }
    coming = exchange_->send(p.exec, piece, l.y, arrived(piece));
  };
  begin(0);
  for (Index i = 0; i < plan.pieces(); ++i) {
    Piece const& piece = piece_[i % 2];
    coming.wait();
    bool const last = i + 1 == plan.pieces();
    bool const ahead = !last && piece.round == 0 && (i + 1) % plan.shape().chunks != 0;
    if (ahead) begin(i + 1);
    View2<T> const sorted = stretch(sorted_, piece.buffer_row, piece.rows);
    auto const order = arrival(p.exec, plan, piece);
    kernels::gather_rows<T>(p.exec, arrived(piece), order, sorted);
    differentiate(p, piece.expert_offset.data(), rows_of(l, piece), sorted, need_dh ? sorted : View2<T>());
    if (need_dh) {
      kernels::scatter_rows<T>(p.exec, sorted, order, arrived(piece));
      going.wait();
      going = exchange_->send_back(p.exec, piece, arrived(piece), slots);
    }
    if (last || ahead) continue;
    going.wait();
    begin(i + 1);
  }
  going.wait();
}

#define UPIT_INSTANTIATE(T)                                                                               \
  template View2<T> FfnExperts<T>::arrived(Piece const&) const;                                           \
  template typename FfnExperts<T>::Rows FfnExperts<T>::rows_of(Layer const&, Piece const&) const;         \
  template View1<int const> FfnExperts<T>::arrival(Exec const&, ExchangePlan const&, Piece const&) const; \
  template void FfnExperts<T>::exchanged_forward(FfnPass<T> const&, Layer const&, Index);                 \
  template void FfnExperts<T>::exchanged_backward(FfnPass<T> const&, Layer const&, bool);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit
