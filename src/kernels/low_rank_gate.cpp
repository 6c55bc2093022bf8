// SPDX-License-Identifier: Apache-2.0
// Owns the gating of low-rank activations: between A (all experts at once) and B (all experts stacked).
#include "upit/kernels/low_rank_gate.hpp"

#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

// The R or J*R numbers of a slot are one thread's work.
using FlatPolicy = Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>;

void check_router(Index tokens, Index experts, Index active, Index expert_rows, Index gate_rows,
                  Index gate_columns) {
  expect(active > 0 || experts == 1, "low_rank_gate: without a router there is one expert");
  expect(active == 0 || (expert_rows == tokens && gate_rows == tokens),
         "low_rank_gate: tokens of the router");
  expect(gate_columns == active, "low_rank_gate: expert and gate differ in K");
}

}  // namespace

template <class T>
void low_rank_gate_forward(Exec const& exec, View2<T const> const& u, View2<int const> const& expert,
                           View2<Real<T> const> const& gate, Real<T> scale, Index experts, Index parts,
                           View2<T> const& v) {
  Index const tokens = extent(u, 0);
  Index const width = extent(u, 1);
  Index const active = extent(expert, 1);
  expect(experts > 0 && parts > 0 && width % (experts * parts) == 0, "low_rank_gate: u is (N, E*J*R)");
  check_router(tokens, experts, active, extent(expert, 0), extent(gate, 0), extent(gate, 1));
  expect_shape(v, tokens, width, "low_rank_gate: v");
  Index const rank = width / (experts * parts);

  Index const choices = active > 0 ? active : 1;

  Kokkos::parallel_for(
      "upit::low_rank_gate_forward", row_policy(exec, tokens, width), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const from = u.data() + n * width;
        T* const to = v.data() + n * width;
        if (active > 0) {
          row_for(row, width, [=](Index const i) { to[i] = T(0); });
          row_barrier(row);
        }
        for (Index k = 0; k < choices; ++k) {
          Index const e = active > 0 ? expert.data()[n * active + k] : 0;
          Real<T> const factor = active > 0 ? scale * gate.data()[n * active + k] : scale;
          row_for(row, parts, rank, [=](Index const j, Index const r) {
            to[(j * experts + e) * rank + r] = T(factor * from[(e * parts + j) * rank + r]);
          });
        }
      });
}

template <class T>
void low_rank_gate_backward(Exec const& exec, View2<T const> const& dv, View2<T const> const& u,
                            View2<int const> const& expert, View2<Real<T> const> const& gate, Real<T> scale,
                            Index experts, Index parts, View2<T> const& du, View2<Real<T>> const& dgate) {
  Index const tokens = extent(u, 0);
  Index const width = extent(u, 1);
  Index const active = extent(expert, 1);
  expect(experts > 0 && parts > 0 && width % (experts * parts) == 0, "low_rank_gate: u is (N, E*J*R)");
  check_router(tokens, experts, active, extent(expert, 0), extent(gate, 0), extent(gate, 1));
  check_router(tokens, experts, active, extent(expert, 0), extent(dgate, 0), extent(dgate, 1));
  expect_shape(dv, tokens, width, "low_rank_gate: dv");
  expect_shape(du, tokens, width, "low_rank_gate: du");
  Index const rank = width / (experts * parts);

  Index const choices = active > 0 ? active : 1;

  Kokkos::parallel_for(
      "upit::low_rank_gate_backward", row_policy(exec, tokens, width), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const gradient = dv.data() + n * width;
        T* const to = du.data() + n * width;
        if (active > 0) {
          row_for(row, width, [=](Index const i) { to[i] = T(0); });
          row_barrier(row);
        }
        for (Index k = 0; k < choices; ++k) {
          Index const e = active > 0 ? expert.data()[n * active + k] : 0;
          Real<T> const factor = active > 0 ? scale * gate.data()[n * active + k] : scale;
          row_for(row, parts, rank, [=](Index const j, Index const r) {
            to[(e * parts + j) * rank + r] = T(factor * gradient[(j * experts + e) * rank + r]);
          });
          if (active == 0) continue;
          T const* const from = u.data() + n * width + e * parts * rank;
          Real<T> sum = 0;
          for (Index j = 0; j < parts; ++j) {
            T const* const d = gradient + (j * experts + e) * rank;
            sum += row_sum<Real<T>>(
                row, rank, [=](Index const r) { return Real<T>(d[r]) * Real<T>(from[j * rank + r]); });
          }
          row_once(row, [=] { dgate.data()[n * active + k] += scale * sum; });
        }
      });
}

template <class T>
void gather_low_rank(Exec const& exec, View2<T const> const& u, View2<int const> const& expert,
                     View1<int const> const& order, Real<T> scale, View2<T> const& y) {
  Index const tokens = extent(u, 0);
  Index const width = extent(u, 1);
  Index const active = extent(expert, 1);
  Index const slots = tokens * active;
  Index const part = extent(y, 1);
  expect(active > 0, "gather_low_rank: K >= 1");
  expect_shape(expert, tokens, active, "gather_low_rank: expert");
  expect_shape(order, slots, "gather_low_rank: order");
  expect_shape(y, slots, part, "gather_low_rank: y");
  expect(part > 0 && width % part == 0, "gather_low_rank: u is (N, E*J)");

  Kokkos::parallel_for(
      "upit::gather_low_rank", FlatPolicy(exec, 0, slots), KOKKOS_LAMBDA(Index const p) {
        Index const s = order(p);
        T const* const from = u.data() + (s / active) * width + expert.data()[s] * part;
        T* const to = y.data() + p * part;
        for (Index j = 0; j < part; ++j) to[j] = T(scale * from[j]);
      });
}

template <class T>
void scatter_low_rank(Exec const& exec, View2<Real<T> const> const& dy, View2<int const> const& expert,
                      View1<int const> const& place, Real<T> scale, View2<T> const& du) {
  Index const tokens = extent(du, 0);
  Index const width = extent(du, 1);
  Index const active = extent(expert, 1);
  Index const slots = tokens * active;
  Index const part = extent(dy, 1);
  expect(active > 0, "scatter_low_rank: K >= 1");
  expect_shape(expert, tokens, active, "scatter_low_rank: expert");
  expect_shape(place, slots, "scatter_low_rank: place");
  expect_shape(dy, slots, part, "scatter_low_rank: dy");
  expect(part > 0 && width % part == 0, "scatter_low_rank: du is (N, E*J)");

  Kokkos::parallel_for(
      "upit::scatter_low_rank", row_policy(exec, tokens, width), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T* const to = du.data() + n * width;
        row_for(row, width, [=](Index const i) { to[i] = T(0); });
        row_barrier(row);
        for (Index s = n * active; s < (n + 1) * active; ++s) {
          Real<T> const* const from = dy.data() + static_cast<Index>(place.data()[s]) * part;
          T* const share = to + expert.data()[s] * part;
          row_for(row, part, [=](Index const j) { share[j] = T(scale * from[j]); });
        }
      });
}

#define UPIT_INSTANTIATE(T)                                                                              \
  template void low_rank_gate_forward<T>(Exec const&, View2<T const> const&, View2<int const> const&,    \
                                         View2<Real<T> const> const&, Real<T>, Index, Index,             \
                                         View2<T> const&);                                               \
  template void low_rank_gate_backward<T>(Exec const&, View2<T const> const&, View2<T const> const&,     \
                                          View2<int const> const&, View2<Real<T> const> const&, Real<T>, \
                                          Index, Index, View2<T> const&, View2<Real<T>> const&);         \
  template void gather_low_rank<T>(Exec const&, View2<T const> const&, View2<int const> const&,          \
                                   View1<int const> const&, Real<T>, View2<T> const&);                   \
  template void scatter_low_rank<T>(Exec const&, View2<Real<T> const> const&, View2<int const> const&,   \
                                    View1<int const> const&, Real<T>, View2<T> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
