// SPDX-License-Identifier: Apache-2.0
// Owns root-mean-square normalisation (Zhang and Sennrich 2019), alone and fused with the residual sum before
// it.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// y = weight * x * rstd with rstd = 1 / sqrt(mean(x^2) + eps), row by row.
///
///   x       (N, C)  in
///   weight  (C)     in
///   y       (N, C)  out
///   rstd    (N)     out  for the backward pass
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void rmsnorm_forward(Exec const& exec, View2<T const> x, View1<T const> weight, Real<T> eps, View2<T> y,
                     View1<Real<T>> rstd);

/// sum = x + delta, y = rmsnorm(sum): the residual stream's next state and the next block's input in one
/// pass.
///
///   x, delta  (N, C)  in
///   weight    (C)     in
///   sum       (N, C)  out  may be x or delta itself
///   y         (N, C)  out
///   rstd      (N)     out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void add_rmsnorm_forward(Exec const& exec, View2<T const> x, View2<T const> delta, View1<T const> weight,
                         Real<T> eps, View2<T> sum, View2<T> y, View1<Real<T>> rstd);

/// dx += gradient of y with respect to x:
/// rstd * (weight * dy - xhat * mean(weight * dy * xhat)), xhat = x * rstd.
///
///   dy, x   (N, C)  in
///   weight  (C)     in
///   rstd    (N)     in      of the forward pass
///   dx      (N, C)  in/out  +=
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void rmsnorm_backward(Exec const& exec, View2<T const> dy, View2<T const> x, View1<T const> weight,
                      View1<Real<T> const> rstd, View2<T> dx);

/// dweight += sum over rows of dy * x * rstd. Rows are summed in an order that no number of threads changes.
///
///   dy, x    (N, C)  in
///   rstd     (N)     in      of the forward pass
///   dweight  (C)     in/out  +=
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void rmsnorm_backward_weight(Exec const& exec, View2<T const> dy, View2<T const> x, View1<Real<T> const> rstd,
                             View1<Real<T>> dweight);

}  // namespace upit::kernels
