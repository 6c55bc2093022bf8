// SPDX-License-Identifier: Apache-2.0
// Owns the optimizer's update and the norm it is clipped by, both on flat buffers.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

struct AdamwStep {
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double gradient_scale = 1.0;  // clipping
  Index step = 1;               // from 1
};

/// One step of AdamW (Loshchilov and Hutter 2019): decay apart from the gradient, bias correction as in
/// PyTorch, epsilon added after it.
///
///   gradient       (n)  in     multiplied by gradient_scale first
///   weight         (n)  inout
///   first_moment   (n)  inout
///   second_moment  (n)  inout
///
/// Enqueued on `exec`, not finished, when it returns.
template <class R>
void adamw(Exec const& exec, View1<R const> const& gradient, View1<R> const& weight,
           View1<R> const& first_moment, View1<R> const& second_moment, AdamwStep const& step);

/// The same on weights in Real<T>, the masters, of which the model computes with a copy in T.
///
///   master  (n)  inout
///   weight  (n)  out    the master, rounded
template <class T>
void adamw_rounded(Exec const& exec, View1<Real<T> const> const& gradient, View1<Real<T>> const& master,
                   View1<T> const& weight, View1<Real<T>> const& first_moment,
                   View1<Real<T>> const& second_moment, AdamwStep const& step);

/// Elements that `squared_norm` sums into one block.
inline constexpr Index kNormBlock = 4096;

/// Extent of the scratch of `squared_norm`: at least 1.
constexpr Index squared_norm_blocks(Index n) { return n > 0 ? (n + kNormBlock - 1) / kNormBlock : 1; }

/// Sum of squares in double, over fixed blocks that are then summed: the same for any number of threads.
///
///   x       (n)                       in
///   blocks  (squared_norm_blocks(n))  scratch, at least so many
///
///   sum     (1)                       out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class R>
void squared_norm(Exec const& exec, View1<R const> const& x, View1<double> const& blocks,
                  View1<double> const& sum);

/// The same on the host. Waits for `exec`.
template <class R>
double squared_norm(Exec const& exec, View1<R const> const& x, View1<double> const& blocks);

}  // namespace upit::kernels
