// SPDX-License-Identifier: Apache-2.0
// Owns the way of tokens to experts and back. Slot s = n*K + k is token n's k-th choice.
#include "upit/kernels/dispatch.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

using FlatPolicy = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

constexpr Index kSortBlock = 256;

// Too few slots for one counter per expert and block: every expert looks at all of them.
void plan_few(Exec const& exec, View2<int const> const& expert, Index experts, View1<Index> const& offset,
              View1<int> const& order, View1<int> const& place) {
  Index const slots = extent(order, 0);
  Kokkos::parallel_for(
      "upit::dispatch_plan", FlatPolicy(exec, 0, experts + 1), KOKKOS_LAMBDA(Index const e) {
        int const* const chosen = expert.data();
        Index next = 0;
        for (Index s = 0; s < slots; ++s) next += chosen[s] < e ? 1 : 0;
        offset(e) = next;
        for (Index s = 0; s < slots; ++s) {
          if (chosen[s] != e) continue;
          order(next) = static_cast<int>(s);
          place(s) = static_cast<int>(next);
          ++next;
        }
      });
}

// Block b owns slots [b * block, (b + 1) * block), the last one also the rest; its E counters are the first E
// entries of that stretch of `place`.
void plan_many(Exec const& exec, View2<int const> const& expert, Index experts, Index block,
               View1<Index> const& offset, View1<int> const& order, View1<int> const& place) {
  Index const slots = extent(order, 0);
  Index const blocks = slots / block;

  Kokkos::parallel_for(
      "upit::dispatch_plan", FlatPolicy(exec, 0, blocks), KOKKOS_LAMBDA(Index const b) {
        int const* const chosen = expert.data();
        int* const counter = place.data() + b * block;
        for (Index e = 0; e < experts; ++e) counter[e] = 0;
        Index const end = b + 1 == blocks ? slots : (b + 1) * block;
        for (Index s = b * block; s < end; ++s) ++counter[chosen[s]];
      });
  // Counts become places among the slots of the same expert.
  Kokkos::parallel_for(
      "upit::dispatch_plan", FlatPolicy(exec, 0, experts), KOKKOS_LAMBDA(Index const e) {
        int sum = 0;
        for (Index b = 0; b < blocks; ++b) {
          int const count = place(b * block + e);
          place(b * block + e) = sum;
          sum += count;
        }
        offset(e + 1) = sum;
      });
  Kokkos::parallel_for(
      "upit::dispatch_plan", FlatPolicy(exec, 0, 1), KOKKOS_LAMBDA(Index const) {
        offset(0) = 0;
        for (Index e = 0; e < experts; ++e) offset(e + 1) += offset(e);
      });
  Kokkos::parallel_for(
      "upit::dispatch_plan", FlatPolicy(exec, 0, blocks), KOKKOS_LAMBDA(Index const b) {
        int const* const chosen = expert.data();
        int* const next = place.data() + b * block;
        Index const end = b + 1 == blocks ? slots : (b + 1) * block;
        for (Index s = b * block; s < end; ++s) {
          int const e = chosen[s];
          order(offset(e) + next[e]++) = static_cast<int>(s);
        }
      });
  Kokkos::parallel_for(
      "upit::dispatch_plan", FlatPolicy(exec, 0, slots),
      KOKKOS_LAMBDA(Index const p) { place(order(p)) = static_cast<int>(p); });
}

// out[n] (+)= sum over k of weight(k) * y[place[n*K + k]]; a column stays with one thread for all k. Sums are
// held in Real<T>: where that is wider than T, a stretch of them at a time.
template <class T, class W>
KOKKOS_INLINE_FUNCTION void row_sum_slots(Row const& row, T const* y, int const* place, Index active,
                                          Index columns, bool accumulate, T* out, W const& weight) {
  if constexpr (!std::is_same_v<T, Real<T>>) {
    constexpr Index kStretch = kHostRows ? 256 : 1;
    Index const stretches = (columns + kStretch - 1) / kStretch;
    auto const add = [&](Index const stretch) {
      Index const begin = stretch * kStretch;
      Index const count = columns - begin < kStretch ? columns - begin : kStretch;
      Real<T> sum[kStretch];
      row_for(Index{0}, count, [&](Index const c) {
        sum[c] = accumulate ? static_cast<Real<T>>(out[begin + c]) : Real<T>(0);
      });
      for (Index k = 0; k < active; ++k) {
        T const* const from = y + static_cast<Index>(place[k]) * columns + begin;
        Real<T> const g = weight(k);
        row_for(Index{0}, count, [&](Index const c) { sum[c] += g * static_cast<Real<T>>(from[c]); });
      }
      row_for(Index{0}, count, [&](Index const c) { out[begin + c] = T(sum[c]); });
    };
    if constexpr (kHostRows) {
      for (Index stretch = 0; stretch < stretches; ++stretch) add(stretch);
    } else {
      row_for(row, stretches, add);
    }
    return;
  }
  for (Index k = 0; k < active; ++k) {
    T const* const from = y + static_cast<Index>(place[k]) * columns;
    Real<T> const g = weight(k);
    if (k == 0 && !accumulate) {
      row_for(row, columns, [&](Index const c) { out[c] = T(g * from[c]); });
    } else {
      row_for(row, columns, [&](Index const c) { out[c] = T(out[c] + g * from[c]); });
    }
  }
}

}  // namespace

void dispatch_plan(Exec const& exec, View2<int const> const& expert, Index experts,
                   View1<Index> const& offset, View1<int> const& order, View1<int> const& place) {
  Index const slots = extent(expert, 0) * extent(expert, 1);
  expect(slots <= std::numeric_limits<int>::max(), "dispatch_plan: N*K fits into an int");
  expect_shape(offset, experts + 1, "dispatch_plan: offset");
  expect_shape(order, slots, "dispatch_plan: order");
  expect_shape(place, slots, "dispatch_plan: place");

  Index const block = std::max(kSortBlock, experts);
  if (slots < block) {
    plan_few(exec, expert, experts, offset, order, place);
  } else {
    plan_many(exec, expert, experts, block, offset, order, place);
  }
}

template <class T>
void gather_slots(Exec const& exec, View2<T const> const& x, View1<int const> const& order, Index active,
                  View2<T> const& y) {
  Index const columns = extent(x, 1);
  Index const slots = extent(x, 0) * active;
  expect_shape(order, slots, "gather_slots: order");
  expect_shape(y, slots, columns, "gather_slots: y");

  Kokkos::parallel_for(
      "upit::gather_slots", row_policy(exec, slots, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const p = row_index(row);
        T const* const from = x.data() + (static_cast<Index>(order(p)) / active) * columns;
        T* const to = y.data() + p * columns;
        row_for(row, columns, [&](Index const c) { to[c] = from[c]; });
      });
}

template <class T>
void combine_slots(Exec const& exec, View2<T const> const& y, View2<Real<T> const> const& gate,
                   View1<int const> const& place, View2<T> const& out, bool accumulate) {
  Index const tokens = extent(out, 0);
  Index const columns = extent(out, 1);
  Index const active = extent(gate, 1);
  expect(active > 0, "combine_slots: K >= 1");
  expect_shape(gate, tokens, active, "combine_slots: gate");
  expect_shape(place, tokens * active, "combine_slots: place");
  expect_shape(y, tokens * active, columns, "combine_slots: y");

  Kokkos::parallel_for(
      "upit::combine_slots", row_policy(exec, tokens, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        Real<T> const* const g = gate.data() + n * active;
        row_sum_slots<T>(row, y.data(), place.data() + n * active, active, columns, accumulate,
                         out.data() + n * columns, [&](Index const k) { return g[k]; });
      });
}

template <class T>
void combine_slots_backward(Exec const& exec, View2<T const> const& dout, View2<T const> const& y,
                            View2<Real<T> const> const& gate, View1<int const> const& place,
                            View2<T> const& dy, View2<Real<T>> const& dgate) {
  Index const tokens = extent(dout, 0);
  Index const columns = extent(dout, 1);
  Index const active = extent(gate, 1);
  Index const slots = tokens * active;
  expect(active > 0, "combine_slots_backward: K >= 1");
  expect_shape(gate, tokens, active, "combine_slots_backward: gate");
  expect_shape(dgate, tokens, active, "combine_slots_backward: dgate");
  expect_shape(place, slots, "combine_slots_backward: place");
  expect_shape(y, slots, columns, "combine_slots_backward: y");
  expect_shape(dy, slots, columns, "combine_slots_backward: dy");

  Kokkos::parallel_for(
      "upit::combine_slots_backward", row_policy(exec, slots, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const s = row_index(row);
        Index const p = place(s);
        T const* const gradient = dout.data() + (s / active) * columns;
        T const* const from = y.data() + p * columns;
        T* const to = dy.data() + p * columns;
        Real<T> const g = gate.data()[s];
        Real<T> const dot = row_sum<Real<T>>(
            row, columns, [&](Index const c) { return Real<T>(gradient[c]) * Real<T>(from[c]); });
        Index const next = s + 1 < slots ? s + 1 : s, q = place(next);
        row_for_fetching(
            row, columns, [=](Index const c) { to[c] = T(g * gradient[c]); }, y.data() + q * columns,
            dout.data() + (next / active) * columns, dy.data() + q * columns);
        row_once(row, [&] { dgate.data()[s] += dot; });
      });
}

template <class T>
void sum_slots(Exec const& exec, View2<T const> const& y, View1<int const> const& place, Index active,
               View2<T> const& out, bool accumulate) {
  Index const tokens = extent(out, 0);
  Index const columns = extent(out, 1);
  expect(active > 0, "sum_slots: K >= 1");
  expect_shape(place, tokens * active, "sum_slots: place");
  expect_shape(y, tokens * active, columns, "sum_slots: y");

  Kokkos::parallel_for(
      "upit::sum_slots", row_policy(exec, tokens, columns), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        row_sum_slots<T>(row, y.data(), place.data() + n * active, active, columns, accumulate,
                         out.data() + n * columns, [](Index) { return Real<T>(1); });
      });
}

#define UPIT_INSTANTIATE(T)                                                                          \
  template void gather_slots<T>(Exec const&, View2<T const> const&, View1<int const> const&, Index,  \
                                View2<T> const&);                                                    \
  template void combine_slots<T>(Exec const&, View2<T const> const&, View2<Real<T> const> const&,    \
                                 View1<int const> const&, View2<T> const&, bool);                    \
  template void combine_slots_backward<T>(Exec const&, View2<T const> const&, View2<T const> const&, \
                                          View2<Real<T> const> const&, View1<int const> const&,      \
                                          View2<T> const&, View2<Real<T>> const&);                   \
  template void sum_slots<T>(Exec const&, View2<T const> const&, View1<int const> const&, Index,     \
                             View2<T> const&, bool);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
