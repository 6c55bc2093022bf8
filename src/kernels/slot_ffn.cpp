// SPDX-License-Identifier: Apache-2.0
// Owns the launches of the slot_ffn kernels: hosts take blocks of tokens, devices a team a token.
#include "upit/kernels/slot_ffn.hpp"

#include "slot_ffn_device.hpp"
#include "slot_ffn_host.hpp"

namespace upit::kernels {

namespace {

template <class T>
slots::Slots<T> checked(SlotFfn<T> const& s, Index tokens, Index width) {
  Index const active = extent(s.gate, 1), rank = extent(s.gate_b, 1), slots = tokens * active;
  expect(active > 0, "slot_ffn: K >= 1");
  expect(rank > 0, "slot_ffn: R >= 1");
  auto const fits = [&](View3<T const> const& b) {
    return b.extent(0) == s.gate_b.extent(0) && extent(b, 1) == rank && extent(b, 2) == width;
  };
  expect(fits(s.gate_b) && fits(s.up_b) && fits(s.down_a), "slot_ffn: matrices of the experts");
  expect_shape(s.gate, tokens, active, "slot_ffn: gate");
  expect_shape(s.expert, tokens, active, "slot_ffn: expert");
  expect_shape(s.offset, extent(s.gate_b, 0) + 1, "slot_ffn: offset");
  expect_shape(s.order, slots, "slot_ffn: order");
  expect_shape(s.place, slots, "slot_ffn: place");
  expect_shape(s.low, slots, 2 * rank, "slot_ffn: low");
  bool const masked = extent(s.mask, 0) > 0;
  if (masked) expect_shape(s.mask, tokens, width, "slot_ffn: mask");
  return {s.gate_b.data(),
          s.up_b.data(),
          s.down_a.data(),
          s.low.data(),
          masked ? s.mask.data() : nullptr,
          s.expert.data(),
          s.order.data(),
          s.place.data(),
          s.offset.data(),
          s.gate.data(),
          tokens,
          extent(s.gate_b, 0),
          active,
          rank,
          width};
}

template <class T>
slots::Slots<T> checked_forward(SlotFfn<T> const& slots, View2<T const> const& base, View2<T> const& act,
                                View2<Real<T>> const& low2) {
  Index const tokens = extent(act, 0), width = extent(act, 1);
  slots::Slots<T> const s = checked(slots, tokens, width);
  expect_shape(base, tokens, 2 * width, "slot_ffn_forward: base");
  expect_shape(low2, tokens * s.active, s.rank, "slot_ffn_forward: low2");
  return s;
}

template <class T>
slots::Slots<T> checked_backward(SlotFfn<T> const& slots, View2<T const> const& dact,
                                 View2<T const> const& dlow2, View2<T> const& base, View2<T> const& slot_act,
                                 View2<T> const& dslot, View2<Real<T>> const& dlow,
                                 View2<Real<T>> const& dgate) {
  Index const tokens = extent(dact, 0), width = extent(dact, 1);
  slots::Slots<T> const s = checked(slots, tokens, width);
  Index const count = tokens * s.active;
  expect_shape(dlow2, count, s.rank, "slot_ffn_backward: dlow2");
  expect_shape(base, tokens, 2 * width, "slot_ffn_backward: base");
  expect_shape(slot_act, count, width, "slot_ffn_backward: slot_act");
  expect_shape(dslot, count, 2 * width, "slot_ffn_backward: dslot");
  expect_shape(dlow, count, 2 * s.rank, "slot_ffn_backward: dlow");
  expect_shape(dgate, tokens, s.active, "slot_ffn_backward: dgate");
  return s;
}

using BlockPolicy = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

Index blocks(Index tokens) { return (tokens + slots::kTokens - 1) / slots::kTokens; }

}  // namespace

template <class T>
void slot_ffn_forward(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& base,
                      View2<T> const& act, View2<T> const& slot_act, View2<Real<T>> const& low2) {
  if constexpr (kHostRows) {
    auto const s = checked_forward<T>(slots, base, act, low2);
    T const* const b = base.data();
    T* const a = act.data();
    Real<T>* const l = low2.data();
    Kokkos::parallel_for("upit::slot_ffn_forward", BlockPolicy(exec, 0, blocks(s.tokens)),
                         [=](Index const block) { slots::host_forward<T>(s, block, b, a, l); });
  } else {
    slot_ffn_forward_by_teams<T>(exec, slots, base, act, slot_act, low2);
  }
}

template <class T>
void slot_ffn_backward(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& dact,
                       View2<T const> const& dlow2, View2<T> const& base, View2<T> const& slot_act,
                       View2<T> const& dslot, View2<Real<T>> const& dlow, View2<Real<T>> const& dgate) {
  if constexpr (kHostRows) {
    auto const s = checked_backward<T>(slots, dact, dlow2, base, slot_act, dslot, dlow, dgate);
    slots::Gradients<T> const d = {dact.data(),  dlow2.data(), base.data(), slot_act.data(),
                                   dslot.data(), dlow.data(),  dgate.data()};
    Kokkos::parallel_for("upit::slot_ffn_backward", BlockPolicy(exec, 0, blocks(s.tokens)),
                         [=](Index const block) { slots::host_backward<T>(s, block, d); });
  } else {
    slot_ffn_backward_by_teams<T>(exec, slots, dact, dlow2, base, slot_act, dslot, dlow, dgate);
  }
}

template <class T>
void slot_ffn_forward_by_teams(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& base,
                               View2<T> const& act, View2<T> const& slot_act, View2<Real<T>> const& low2) {
  auto const s = checked_forward<T>(slots, base, act, low2);
  expect_shape(slot_act, s.tokens * s.active, s.width, "slot_ffn_forward: slot_act");
  T const* const b = base.data();
  T *const a = act.data(), *const each = slot_act.data();
  Real<T>* const l = low2.data();
  Index const width = s.width;
  Kokkos::parallel_for(
      "upit::slot_ffn_forward", team_policy(exec, s.tokens, width), KOKKOS_LAMBDA(TeamRow const& row) {
        Index const n = row_index(row);
        slots::device_forward<T>(row, s, n, b + n * 2 * width, a + n * width, each, l);
      });
}

template <class T>
void slot_ffn_backward_by_teams(Exec const& exec, SlotFfn<T> const& slots, View2<T const> const& dact,
                                View2<T const> const& dlow2, View2<T> const& base, View2<T> const& slot_act,
                                View2<T> const& dslot, View2<Real<T>> const& dlow,
                                View2<Real<T>> const& dgate) {
  auto const s = checked_backward<T>(slots, dact, dlow2, base, slot_act, dslot, dlow, dgate);
  slots::Gradients<T> const d = {dact.data(),  dlow2.data(), base.data(), slot_act.data(),
                                 dslot.data(), dlow.data(),  dgate.data()};
  Kokkos::parallel_for(
      "upit::slot_ffn_backward", team_policy(exec, s.tokens, s.width),
      KOKKOS_LAMBDA(TeamRow const& row) { slots::device_backward<T>(row, s, row_index(row), d); });
}

#define UPIT_INSTANTIATE(T)                                                                                 \
  template void slot_ffn_forward<T>(Exec const&, SlotFfn<T> const&, View2<T const> const&, View2<T> const&, \
                                    View2<T> const&, View2<Real<T>> const&);                                \
  template void slot_ffn_backward<T>(Exec const&, SlotFfn<T> const&, View2<T const> const&,                 \
                                     View2<T const> const&, View2<T> const&, View2<T> const&,               \
                                     View2<T> const&, View2<Real<T>> const&, View2<Real<T>> const&);        \
  template void slot_ffn_forward_by_teams<T>(Exec const&, SlotFfn<T> const&, View2<T const> const&,         \
                                             View2<T> const&, View2<T> const&, View2<Real<T>> const&);      \
  template void slot_ffn_backward_by_teams<T>(                                                              \
      Exec const&, SlotFfn<T> const&, View2<T const> const&, View2<T const> const&, View2<T> const&,        \
      View2<T> const&, View2<T> const&, View2<Real<T>> const&, View2<Real<T>> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
