// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the cross-entropy kernels.
#include "upit/kernels/cross_entropy.hpp"

#include "upit/core/math.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class T>
void cross_entropy(Exec const& exec, View1<int const> target, View2<T const> logits, View1<Real<T>> nll) {
  using R = Real<T>;
  Index const M = extent(logits, 0), V = extent(logits, 1);
  expect_shape(target, M, "cross_entropy: target is not (M)");
  expect_shape(nll, M, "cross_entropy: nll is not (M)");
  Kokkos::parallel_for(
      "upit::cross_entropy", row_policy(exec, M, V), KOKKOS_LAMBDA(Row const& row) {
        Index const m = row_index(row);
        Index const t = target(m);
        if (t < 0) {
          row_once(row, [=] { nll(m) = R(0); });
          return;
        }
        T const* const logit = logits.data() + m * V;
        R const largest = row_max<R>(row, V, [=](Index const v) { return static_cast<R>(logit[v]); });
        R const sum =
            row_sum<R>(row, V, [=](Index const v) { return fast_exp(static_cast<R>(logit[v]) - largest); });
        row_once(row, [=] { nll(m) = log(sum) + (largest - static_cast<R>(logit[t])); });
      });
}

template <class T>
void cross_entropy_backward(Exec const& exec, View1<int const> target, Real<T> scale, View2<T> logits,
                            View1<Real<T>> nll) {
  using R = Real<T>;
  Index const M = extent(logits, 0), V = extent(logits, 1);
  expect_shape(target, M, "cross_entropy_backward: target is not (M)");
  expect_shape(nll, M, "cross_entropy_backward: nll is not (M)");
  Kokkos::parallel_for(
      "upit::cross_entropy_backward", row_policy(exec, M, V), KOKKOS_LAMBDA(Row const& row) {
        Index const m = row_index(row);
        Index const t = target(m);
        T* const logit = logits.data() + m * V;
        if (t < 0) {
          row_for(row, V, [=](Index const v) { logit[v] = T(0); });
          row_once(row, [=] { nll(m) = R(0); });
          return;
        }
        R const largest = row_max<R>(row, V, [=](Index const v) { return static_cast<R>(logit[v]); });
        R const below = largest - static_cast<R>(logit[t]);
        row_barrier(row);  // the target's logit is overwritten next
        R const sum = row_sum<R>(row, V, [=](Index const v) {
          R const e = fast_exp(static_cast<R>(logit[v]) - largest);
          logit[v] = static_cast<T>(e);
          return e;
        });
        row_barrier(row);
        R const factor = scale / sum;
        row_for(row, V, [=](Index const v) { logit[v] = static_cast<T>(static_cast<R>(logit[v]) * factor); });
        row_barrier(row);
        row_once(row, [=] {
          logit[t] = static_cast<T>(static_cast<R>(logit[t]) - scale);
          nll(m) = log(sum) + below;
        });
      });
}

#define UPIT_INSTANTIATE(T)                                                                      \
  template void cross_entropy<T>(Exec const&, View1<int const>, View2<T const>, View1<Real<T>>); \
  template void cross_entropy_backward<T>(Exec const&, View1<int const>, Real<T>, View2<T>, View1<Real<T>>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
