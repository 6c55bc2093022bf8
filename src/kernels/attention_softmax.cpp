// SPDX-License-Identifier: Apache-2.0
// Owns the body of attention_delta.
#include "upit/kernels/attention_softmax.hpp"

#include "upit/kernels/shape.hpp"

namespace upit::kernels {
namespace {

constexpr Index kAhead = 16;  // heads: some pages of the usual head width

}  // namespace

template <class T>
void attention_delta(Exec const& exec, View2<T const> out, View2<T const> dout, Index heads,
                     View2<Real<T>> delta) {
  using R = Real<T>;
  Index const N = extent(out, 0);
  expect(heads > 0 && extent(out, 1) % heads == 0, "attention_delta: the width is no multiple of the heads");
  Index const D = extent(out, 1) / heads;
  expect_shape(dout, N, heads * D, "attention_delta: dout is not (N, H*D)");
  expect_shape(delta, N, heads, "attention_delta: delta is not (N, H)");
  Kokkos::parallel_for(
      "upit::attention_delta", row_policy(exec, N * heads, D), KOKKOS_LAMBDA(Row const& row) {
        Index const nh = row_index(row);  // a token's heads lie side by side: (N, H*D) is (N*H, D)
        T const* const o = out.data() + nh * D;
        T const* const g = dout.data() + nh * D;
        Index const ahead = nh + kAhead < N * heads ? kAhead * D : 0;
        fetch(o + ahead, D);
        fetch(g + ahead, D);
        R const dot =
            row_sum<R>(row, D, [=](Index const i) { return static_cast<R>(o[i]) * static_cast<R>(g[i]); });
        row_once(row, [=] { delta.data()[nh] = dot; });
      });
}

#define UPIT_INSTANTIATE(T) \
  template void attention_delta<T>(Exec const&, View2<T const>, View2<T const>, Index, View2<Real<T>>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
