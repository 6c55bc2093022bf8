// SPDX-License-Identifier: Apache-2.0
// Owns the bodies of the RMSNorm kernels.
#include "upit/kernels/rmsnorm.hpp"

#include "column_blocks.hpp"
#include "upit/kernels/row.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::kernels {

template <class T>
void rmsnorm_forward(Exec const& exec, View2<T const> x, View1<T const> weight, Real<T> eps, View2<T> y,
                     View1<Real<T>> rstd) {
  using R = Real<T>;
  Index const N = extent(x, 0), C = extent(x, 1);
  expect_shape(weight, C, "rmsnorm_forward: weight is not (C)");
  expect_shape(y, N, C, "rmsnorm_forward: y is not (N, C)");
  expect_shape(rstd, N, "rmsnorm_forward: rstd is not (N)");
  Kokkos::parallel_for(
      "upit::rmsnorm_forward", row_policy(exec, N, C), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const in = x.data() + n * C;
        T const* const w = weight.data();
        T* const out = y.data() + n * C;
        R const squares = row_sum<R>(row, C, [=](Index const c) {
          R const v = static_cast<R>(in[c]);
          return v * v;
        });
        R const r = R(1) / sqrt(squares / static_cast<R>(C) + eps);
        row_for_fetching(
            row, C,
            [=](Index const c) {
              out[c] = static_cast<T>(static_cast<R>(w[c]) * (static_cast<R>(in[c]) * r));
            },
            in + (n + 1 < N ? C : 0));
        row_once(row, [=] { rstd(n) = r; });
      });
}

template <class T>
void add_rmsnorm_forward(Exec const& exec, View2<T const> x, View2<T const> delta, View1<T const> weight,
                         Real<T> eps, View2<T> sum, View2<T> y, View1<Real<T>> rstd) {
  using R = Real<T>;
  Index const N = extent(x, 0), C = extent(x, 1);
  expect_shape(delta, N, C, "add_rmsnorm_forward: delta is not (N, C)");
  expect_shape(weight, C, "add_rmsnorm_forward: weight is not (C)");
  expect_shape(sum, N, C, "add_rmsnorm_forward: sum is not (N, C)");
  expect_shape(y, N, C, "add_rmsnorm_forward: y is not (N, C)");
  expect_shape(rstd, N, "add_rmsnorm_forward: rstd is not (N)");
  Kokkos::parallel_for(
      "upit::add_rmsnorm_forward", row_policy(exec, N, C), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const in = x.data() + n * C;
        T const* const d = delta.data() + n * C;
        T const* const w = weight.data();
        T* const s = sum.data() + n * C;
        T* const out = y.data() + n * C;
        R const squares = row_sum<R>(row, C, [=](Index const c) {
          T const stored = static_cast<T>(static_cast<R>(in[c]) + static_cast<R>(d[c]));
          s[c] = stored;
          R const v = static_cast<R>(stored);  // the norm of what later layers read, rounding included
          return v * v;
        });
        row_barrier(row);
        R const r = R(1) / sqrt(squares / static_cast<R>(C) + eps);
        Index const next = n + 1 < N ? C : 0;
        row_for_fetching(
            row, C,
            [=](Index const c) {
              out[c] = static_cast<T>(static_cast<R>(w[c]) * (static_cast<R>(s[c]) * r));
            },
            in + next, d + next);
        row_once(row, [=] { rstd(n) = r; });
      });
}

template <class T>
void rmsnorm_backward(Exec const& exec, View2<T const> dy, View2<T const> x, View1<T const> weight,
                      View1<Real<T> const> rstd, View2<T> dx) {
  using R = Real<T>;
  Index const N = extent(x, 0), C = extent(x, 1);
  expect_shape(dy, N, C, "rmsnorm_backward: dy is not (N, C)");
  expect_shape(weight, C, "rmsnorm_backward: weight is not (C)");
  expect_shape(rstd, N, "rmsnorm_backward: rstd is not (N)");
  expect_shape(dx, N, C, "rmsnorm_backward: dx is not (N, C)");
  Kokkos::parallel_for(
      "upit::rmsnorm_backward", row_policy(exec, N, C), KOKKOS_LAMBDA(Row const& row) {
        Index const n = row_index(row);
        T const* const in = x.data() + n * C;
        T const* const g = dy.data() + n * C;
        T const* const w = weight.data();
        T* const out = dx.data() + n * C;
        R const r = rstd(n);
        R const dot = row_sum<R>(row, C, [=](Index const c) {
          return static_cast<R>(w[c]) * static_cast<R>(g[c]) * static_cast<R>(in[c]);
        });
        R const pull = dot * r * r / static_cast<R>(C);
        Index const next = n + 1 < N ? C : 0;
        row_for_fetching(
            row, C,
            [=](Index const c) {
              R const push = static_cast<R>(w[c]) * static_cast<R>(g[c]);
              out[c] = static_cast<T>(static_cast<R>(out[c]) + r * (push - static_cast<R>(in[c]) * pull));
            },
            in + next, g + next, out + next);
      });
}

namespace {

constexpr Index kRowsAtOnce = 4;  // that share the loads and stores of their sum

// Hosts: a thread owns columns and walks down the rows.
template <class T>
void add_weight_gradient_by_blocks(Exec const& exec, View2<T const> dy, View2<T const> x,
                                   View1<Real<T> const> rstd, View1<Real<T>> dweight) {
  using R = Real<T>;
  Index const N = extent(x, 0), C = extent(x, 1);
  Index const block = column_block(exec, C);
  Kokkos::parallel_for(
      "upit::rmsnorm_backward_weight", column_policy(exec, C, block), KOKKOS_LAMBDA(Index const b) {
        Index const begin = b * block, width = C - begin < block ? C - begin : block;
        R* const sum = dweight.data() + begin;
        Index n = 0;
        for (; n + kRowsAtOnce <= N; n += kRowsAtOnce) {
          T const *const g = dy.data() + n * C + begin, *const in = x.data() + n * C + begin;
          R const r0 = rstd(n), r1 = rstd(n + 1), r2 = rstd(n + 2), r3 = rstd(n + 3);
          for (Index k = kRowsAtOnce; k < 2 * kRowsAtOnce && n + k < N; ++k) {
            fetch(g + k * C, width);
            fetch(in + k * C, width);
          }
          auto const part = [=](Index const e) { return static_cast<R>(g[e]) * static_cast<R>(in[e]); };
          row_for(Index{0}, width, [=](Index const c) {
            sum[c] += (part(c) * r0 + part(C + c) * r1) + (part(2 * C + c) * r2 + part(3 * C + c) * r3);
          });
        }
        for (; n < N; ++n) {
          T const *const g = dy.data() + n * C + begin, *const in = x.data() + n * C + begin;
          R const r = rstd(n);
          row_for(Index{0}, width,
                  [=](Index const c) { sum[c] += static_cast<R>(g[c]) * (static_cast<R>(in[c]) * r); });
        }
      });
}

// Devices: a team owns a column, else a few hundred threads would each walk thousands of rows. Neighbouring
// teams find their part of a cache line in the second-level cache.
template <class T>
void add_weight_gradient_by_columns(Exec const& exec, View2<T const> dy, View2<T const> x,
                                    View1<Real<T> const> rstd, View1<Real<T>> dweight) {
  using R = Real<T>;
  Index const N = extent(x, 0), C = extent(x, 1);
  Kokkos::parallel_for(
      "upit::rmsnorm_backward_weight", row_policy(exec, C, N), KOKKOS_LAMBDA(Row const& row) {
        Index const c = row_index(row);
        T const* const g = dy.data() + c;
        T const* const in = x.data() + c;
        R const* const scale = rstd.data();
        R const sum = row_sum<R>(row, N, [=](Index const n) {
          return static_cast<R>(g[n * C]) * (static_cast<R>(in[n * C]) * scale[n]);
        });
        row_once(row, [=] { dweight(c) += sum; });
      });
}

}  // namespace

template <class T>
void rmsnorm_backward_weight(Exec const& exec, View2<T const> dy, View2<T const> x, View1<Real<T> const> rstd,
                             View1<Real<T>> dweight) {
  Index const N = extent(x, 0), C = extent(x, 1);
  expect_shape(dy, N, C, "rmsnorm_backward_weight: dy is not (N, C)");
  expect_shape(rstd, N, "rmsnorm_backward_weight: rstd is not (N)");
  expect_shape(dweight, C, "rmsnorm_backward_weight: dweight is not (C)");
  if constexpr (kHostRows)
    add_weight_gradient_by_blocks<T>(exec, dy, x, rstd, dweight);
  else
    add_weight_gradient_by_columns<T>(exec, dy, x, rstd, dweight);
}

#define UPIT_INSTANTIATE(T)                                                                                  \
  template void rmsnorm_forward<T>(Exec const&, View2<T const>, View1<T const>, Real<T>, View2<T>,           \
                                   View1<Real<T>>);                                                          \
  template void add_rmsnorm_forward<T>(Exec const&, View2<T const>, View2<T const>, View1<T const>, Real<T>, \
                                       View2<T>, View2<T>, View1<Real<T>>);                                  \
  template void rmsnorm_backward<T>(Exec const&, View2<T const>, View2<T const>, View1<T const>,             \
                                    View1<Real<T> const>, View2<T>);                                         \
  template void rmsnorm_backward_weight<T>(Exec const&, View2<T const>, View2<T const>,                      \
                                           View1<Real<T> const>, View1<Real<T>>);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit::kernels
