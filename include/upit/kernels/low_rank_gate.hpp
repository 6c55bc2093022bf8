// SPDX-License-Identifier: Apache-2.0
// Owns the gating of low-rank activations: between A (all experts at once) and B (all experts stacked).
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Gates the low-rank activations u = A x of all experts and regroups them by part, so that one product with
/// the stacked B of a part (E*R rows) sums the chosen experts.
///
///   u       (N, E*J*R)  in   laid out [e][j][r]; J = `parts` (gate and up: 2, down: 1)
///   expert  (N, K)      in   distinct ids of a token; K = 0: no router, E must be 1 and its gate is 1
///   gate    (N, K)      in
///   scale               alpha / r
///   v       (N, J*E*R)  out  laid out [j][e][r]: scale * gate * u for chosen experts, 0 elsewhere
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void low_rank_gate_forward(Exec const& exec, View2<T const> const& u, View2<int const> const& expert,
                           View2<Real<T> const> const& gate, Real<T> scale, Index experts, Index parts,
                           View2<T> const& v);

/// Backward of `low_rank_gate_forward`.
///
///   dv     (N, J*E*R)  in
///   du     (N, E*J*R)  out  overwritten: scale * gate * dv, 0 for experts not chosen
///   dgate  (N, K)      out  accumulated: += scale * sum_{j,r} dv * u of the chosen expert
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void low_rank_gate_backward(Exec const& exec, View2<T const> const& dv, View2<T const> const& u,
                            View2<int const> const& expert, View2<Real<T> const> const& gate, Real<T> scale,
                            Index experts, Index parts, View2<T> const& du, View2<Real<T>> const& dgate);

/// Low-rank activations of each sorted slot's expert, for slots in the order of `dispatch_plan`.
///
///   u       (N, E*J)  in   laid out [e][j]; J = y.extent(1)
///   expert  (N, K)    in
///   order   (N*K)     in   slot at each sorted place; slot s = n*K + k
///   y       (N*K, J)  out  y[p][j] = scale * u[n][expert(n, k)][j]
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void gather_low_rank(Exec const& exec, View2<T const> const& u, View2<int const> const& expert,
                     View1<int const> const& order, Real<T> scale, View2<T> const& y);

/// Backward of `gather_low_rank`.
///
///   dy      (N*K, J)  in
///   expert  (N, K)    in   distinct ids of a token
///   place   (N*K)     in   inverse of `order`
///   du      (N, E*J)  out  overwritten: scale * dy of the slot, 0 for experts not chosen
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void scatter_low_rank(Exec const& exec, View2<Real<T> const> const& dy, View2<int const> const& expert,
                      View1<int const> const& place, Real<T> scale, View2<T> const& du);

}  // namespace upit::kernels
