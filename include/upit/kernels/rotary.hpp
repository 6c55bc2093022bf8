// SPDX-License-Identifier: Apache-2.0
// Owns rotary position embedding (Su et al. 2021) in the half-split convention of Hugging Face checkpoints.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Cosine and sine of position * theta^(-2i/D) for i in [0, D/2), computed in double.
///
///   cosine, sine  (S, D/2)  out  S positions from 0
///
/// R is the type of the table, `Real<T>` of the model. Enqueued on `exec`, not finished, when it returns.
template <class R>
void rotary_table(Exec const& exec, double theta, View2<R> cosine, View2<R> sine);

/// Turns the first `heads` heads of each row by their token's position, in place: with a = x[i], b = x[i +
/// D/2], a' = a cos - b sin, b' = b cos + a sin.
///
///   position      (N)                  in      in [0, S); not checked on the device
///   cosine, sine  (S, D/2)             in      from `rotary_table`
///   qkv           (N, columns)         in/out  head h in columns [h*D, (h+1)*D); columns >= heads * D
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void rotary_forward(Exec const& exec, View1<int const> position, View2<Real<T> const> cosine,
                    View2<Real<T> const> sine, Index heads, View2<T> qkv);

/// Turns gradients back, in place: the inverse rotation. Arguments as in `rotary_forward`.
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void rotary_backward(Exec const& exec, View1<int const> position, View2<Real<T> const> cosine,
                     View2<Real<T> const> sine, Index heads, View2<T> dqkv);

}  // namespace upit::kernels
