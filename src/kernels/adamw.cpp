// SPDX-License-Identifier: Apache-2.0
// Owns the optimizer's update and the norm it is clipped by, both on flat buffers.
#include "upit/kernels/adamw.hpp"

#include <cmath>
#include <type_traits>

#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

namespace {

/// `weight`: the rounded copy; not looked at where T is R.
template <class T, class R>
void update(Exec const& exec, View1<R const> const& gradient, View1<R> const& master, T* const weight,
            View1<R> const& first_moment, View1<R> const& second_moment, AdamwStep const& step) {
  Index const n = extent(master, 0);
  expect_shape(gradient, n, "adamw: gradient");
  expect_shape(first_moment, n, "adamw: first_moment");
  expect_shape(second_moment, n, "adamw: second_moment");
  expect(step.step >= 1, "adamw: steps count from 1");

  double const t = static_cast<double>(step.step);
  R const scale = R(step.gradient_scale);
  R const beta1 = R(step.beta1), rest1 = R(1.0 - step.beta1);
  R const beta2 = R(step.beta2), rest2 = R(1.0 - step.beta2);
  R const keep = R(1.0 - step.learning_rate * step.weight_decay);
  R const rate = R(step.learning_rate / (1.0 - std::pow(step.beta1, t)));
  R const root = R(1.0 / std::sqrt(1.0 - std::pow(step.beta2, t)));
  R const epsilon = R(step.epsilon);

  constexpr Index kBlock = 4096;
  Index const blocks = (n + kBlock - 1) / kBlock;
  Kokkos::parallel_for(
      "upit::adamw", row_policy(exec, blocks, kBlock), KOKKOS_LAMBDA(Row const& row) {
        Index const begin = row_index(row) * kBlock;
        Index const count = n - begin < kBlock ? n - begin : kBlock;
        R const* const g = gradient.data() + begin;
        R* const w = master.data() + begin;
        T* const copy = weight + begin;
        R* const m = first_moment.data() + begin;
        R* const v = second_moment.data() + begin;
        row_for(row, count, [=](Index const i) {
          R const gi = scale * g[i];
          R const mi = beta1 * m[i] + rest1 * gi;
          R const vi = beta2 * v[i] + rest2 * gi * gi;
          m[i] = mi;
          v[i] = vi;
          R const wi = keep * w[i] - rate * mi / (sqrt(vi) * root + epsilon);
          w[i] = wi;
          if constexpr (!std::is_same_v<T, R>) copy[i] = T(wi);
        });
      });
}

}  // namespace

template <class R>
void adamw(Exec const& exec, View1<R const> const& gradient, View1<R> const& weight,
           View1<R> const& first_moment, View1<R> const& second_moment, AdamwStep const& step) {
  update<R, R>(exec, gradient, weight, weight.data(), first_moment, second_moment, step);
}

template <class T>
void adamw_rounded(Exec const& exec, View1<Real<T> const> const& gradient, View1<Real<T>> const& master,
                   View1<T> const& weight, View1<Real<T>> const& first_moment,
                   View1<Real<T>> const& second_moment, AdamwStep const& step) {
  expect_shape(weight, extent(master, 0), "adamw_rounded: weight");
  update<T, Real<T>>(exec, gradient, master, weight.data(), first_moment, second_moment, step);
}

template <class R>
void squared_norm(Exec const& exec, View1<R const> const& x, View1<double> const& blocks,
                  View1<double> const& sum) {
  Index const n = extent(x, 0);
  Index const count = squared_norm_blocks(n);
  expect(extent(blocks, 0) >= count, "squared_norm: blocks");

  Kokkos::parallel_for(
      "upit::squared_norm", row_policy(exec, count, kNormBlock), KOKKOS_LAMBDA(Row const& row) {
        Index const b = row_index(row);
        Index const begin = b * kNormBlock;
        Index const size = n - begin < kNormBlock ? n - begin : kNormBlock;
        R const* const from = x.data() + begin;
        double const part = row_sum<double>(row, size, [=](Index const i) {
          return static_cast<double>(from[i]) * static_cast<double>(from[i]);
        });
        row_once(row, [&] { blocks(b) = part; });
      });
  Kokkos::parallel_for(
      "upit::squared_norm", row_policy(exec, 1, count), KOKKOS_LAMBDA(Row const& row) {
        double const all = row_sum<double>(row, count, [&](Index const b) { return blocks(b); });
        row_barrier(row);  // `sum` may be blocks(0), which all have read
        row_once(row, [&] { sum(0) = all; });
      });
}

template <class R>
double squared_norm(Exec const& exec, View1<R const> const& x, View1<double> const& blocks) {
  squared_norm(exec, x, blocks, blocks);
  double norm = 0.0;
  Kokkos::deep_copy(exec, HostView1<double>(&norm, 1), View1<double>(blocks.data(), 1));
  exec.fence();
  return norm;
}

#define UPIT_INSTANTIATE(T)                                                                    \
  template void adamw<T>(Exec const&, View1<T const> const&, View1<T> const&, View1<T> const&, \
                         View1<T> const&, AdamwStep const&);                                   \
  template void squared_norm<T>(Exec const&, View1<T const> const&, View1<double> const&,      \
                                View1<double> const&);                                         \
  template double squared_norm<T>(Exec const&, View1<T const> const&, View1<double> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE
template void adamw_rounded<bfloat16>(Exec const&, View1<float const> const&, View1<float> const&,
                                      View1<bfloat16> const&, View1<float> const&, View1<float> const&,
                                      AdamwStep const&);

}  // namespace upit::kernels
