// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the SwiGLU kernels.
#include "upit/kernels/swiglu.hpp"

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class T>
void swiglu_forward(Exec const& exec, View2<T const> gate_up, View2<T> act) {
  using R = Real<T>;
  Index const N = extent(act, 0), F = extent(act, 1);
  expect_shape(gate_up, N, 2 * F, "swiglu_forward: gate_up is not (N, 2F)");
  Kokkos::parallel_for(
      "upit::swiglu_forward", row_policy(exec, N, F), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const gate = gate_up.data() + n * 2 * F;
        T const* const up = gate + F;
        T* const out = act.data() + n * F;
        Index const next = n + 1 < N ? 2 * F : 0;
        row_for_fetching(
            row, F,
            [=](Index const f) {
              R const g = static_cast<R>(gate[f]);
              out[f] = static_cast<T>(g / (R(1) + fast_exp(-g)) * static_cast<R>(up[f]));
            },
            gate + next, up + next);
      });
}

template <class T>
void swiglu_backward(Exec const& exec, View2<T const> dact, View2<T> gate_up) {
  using R = Real<T>;
  Index const N = extent(dact, 0), F = extent(dact, 1);
  expect_shape(gate_up, N, 2 * F, "swiglu_backward: gate_up is not (N, 2F)");
  Kokkos::parallel_for(
      "upit::swiglu_backward", row_policy(exec, N, F), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T* const gate = gate_up.data() + n * 2 * F;
        T* const up = gate + F;
        T const* const d = dact.data() + n * F;
        Index const next = n + 1 < N ? 1 : 0;
        row_for_fetching(
            row, F,
            [=](Index const f) {
              R const g = static_cast<R>(gate[f]), u = static_cast<R>(up[f]), da = static_cast<R>(d[f]);
              R const s = R(1) / (R(1) + fast_exp(-g));
              gate[f] = static_cast<T>(da * u * s * (R(1) + g * (R(1) - s)));
              up[f] = static_cast<T>(da * g * s);
            },
            gate + next * 2 * F, up + next * 2 * F, d + next * F);
      });
}

#define UPIT_INSTANTIATE(T)                                               \
  template void swiglu_forward<T>(Exec const&, View2<T const>, View2<T>); \
  template void swiglu_backward<T>(Exec const&, View2<T const>, View2<T>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
