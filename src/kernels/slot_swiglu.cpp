// SPDX-License-Identifier: Apache-2.0
// Owns the activation of LoRA experts mixed after whole FFNs: base of the token plus low-rank part of the
// slot.
#include "upit/kernels/slot_swiglu.hpp"

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class T>
void slot_swiglu_forward(Exec const& exec, View2<T const> const& base, View2<T const> const& delta,
                         View1<int const> const& order, Index active, View2<T> const& act) {
  Index const tokens = extent(base, 0);
  Index const width = extent(act, 1);
  Index const slots = tokens * active;
  expect_shape(base, tokens, 2 * width, "slot_swiglu_forward: base");
  expect_shape(delta, slots, 2 * width, "slot_swiglu_forward: delta");
  expect_shape(order, slots, "slot_swiglu_forward: order");
  expect_shape(act, slots, width, "slot_swiglu_forward: act");

  Kokkos::parallel_for(
      "upit::slot_swiglu_forward", row_policy(exec, slots, width), KOKKOS_LAMBDA(Row const& row) {
        Index const p = row_index(row);
        T const* const b = base.data() + (static_cast<Index>(order(p)) / active) * 2 * width;
        T const* const d = delta.data() + p * 2 * width;
        T* const a = act.data() + p * width;
        row_for(row, width, [&](Index const f) {
          Real<T> const gate = Real<T>(b[f]) + Real<T>(d[f]);
          Real<T> const up = Real<T>(b[width + f]) + Real<T>(d[width + f]);
          a[f] = T(gate / (Real<T>(1) + fast_exp(-gate)) * up);
        });
      });
}

template <class T>
void slot_swiglu_backward(Exec const& exec, View2<T const> const& dact, View2<T const> const& base,
                          View1<int const> const& order, Index active, View2<T> const& delta) {
  Index const tokens = extent(base, 0);
  Index const width = extent(dact, 1);
  Index const slots = tokens * active;
  expect_shape(base, tokens, 2 * width, "slot_swiglu_backward: base");
  expect_shape(delta, slots, 2 * width, "slot_swiglu_backward: delta");
  expect_shape(order, slots, "slot_swiglu_backward: order");
  expect_shape(dact, slots, width, "slot_swiglu_backward: dact");

  Kokkos::parallel_for(
      "upit::slot_swiglu_backward", row_policy(exec, slots, width), KOKKOS_LAMBDA(Row const& row) {
        Index const p = row_index(row);
        T const* const b = base.data() + (static_cast<Index>(order(p)) / active) * 2 * width;
        T const* const da = dact.data() + p * width;
        T* const d = delta.data() + p * 2 * width;
        row_for(row, width, [&](Index const f) {
          Real<T> const gate = Real<T>(b[f]) + Real<T>(d[f]);
          Real<T> const up = Real<T>(b[width + f]) + Real<T>(d[width + f]);
          Real<T> const gradient = da[f];
          Real<T> const sigmoid = Real<T>(1) / (Real<T>(1) + fast_exp(-gate));
          d[f] = T(gradient * up * sigmoid * (Real<T>(1) + gate * (Real<T>(1) - sigmoid)));
          d[width + f] = T(gradient * gate * sigmoid);
        });
      });
}

#define UPIT_INSTANTIATE(T)                                                                        \
  template void slot_swiglu_forward<T>(Exec const&, View2<T const> const&, View2<T const> const&,  \
                                       View1<int const> const&, Index, View2<T> const&);           \
  template void slot_swiglu_backward<T>(Exec const&, View2<T const> const&, View2<T const> const&, \
                                        View1<int const> const&, Index, View2<T> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
