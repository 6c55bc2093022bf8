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
        row_for(row, F, [=](Index const f) {
          R const g = static_cast<R>(gate[f]);
          out[f] = static_cast<T>(g / (R(1) + fast_exp(-g)) * static_cast<R>(up[f]));
        });
      });
}

namespace {
// `dgate_up` may be `gate_up`: each element is read before it is written, by the same iteration.
template <class T>
void differentiate(char const* label, Exec const& exec, View2<T const> dact, View2<T const> gate_up,
                   View2<T> dgate_up) {
  using R = Real<T>;
  Index const N = extent(dact, 0), F = extent(dact, 1);
  expect_shape(gate_up, N, 2 * F, "swiglu_backward: gate_up is not (N, 2F)");
  expect_shape(dgate_up, N, 2 * F, "swiglu_backward: dgate_up is not (N, 2F)");
  Kokkos::parallel_for(
      label, row_policy(exec, N, F), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const gate = gate_up.data() + n * 2 * F;
        T const* const up = gate + F;
        T const* const d = dact.data() + n * F;
        T* const dgate = dgate_up.data() + n * 2 * F;
        T* const dup = dgate + F;
        row_for(row, F, [=](Index const f) {
          R const g = static_cast<R>(gate[f]), u = static_cast<R>(up[f]), da = static_cast<R>(d[f]);
          R const s = R(1) / (R(1) + fast_exp(-g));
          dgate[f] = static_cast<T>(da * u * s * (R(1) + g * (R(1) - s)));
          dup[f] = static_cast<T>(da * g * s);
        });
      });
}
}  // namespace

template <class T>
void swiglu_backward(Exec const& exec, View2<T const> dact, View2<T> gate_up) {
  differentiate<T>("upit::swiglu_backward", exec, dact, gate_up, gate_up);
}

template <class T>
void swiglu_backward_into(Exec const& exec, View2<T const> dact, View2<T const> gate_up, View2<T> dgate_up) {
  differentiate<T>("upit::swiglu_backward_into", exec, dact, gate_up, dgate_up);
}

#define UPIT_INSTANTIATE(T)                                                \
  template void swiglu_forward<T>(Exec const&, View2<T const>, View2<T>);  \
  template void swiglu_backward<T>(Exec const&, View2<T const>, View2<T>); \
  template void swiglu_backward_into<T>(Exec const&, View2<T const>, View2<T const>, View2<T>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
