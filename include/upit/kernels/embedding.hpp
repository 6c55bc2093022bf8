// SPDX-License-Identifier: Apache-2.0
// Owns the look-up of token embeddings and its gradient.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Copies the row of each token out of the table.
///
///   token  (N)     in   ids in [0, V); not checked on the device
///   table  (V, C)  in
///   out    (N, C)  out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void embedding_forward(Exec const& exec, View1<int const> token, View2<T const> table, View2<T> out);

/// Adds each token's gradient to its row of the table's gradient: tokens in order within a column, so the
/// result depends on no number of threads.
///
///   token   (N)     in
///   dout    (N, C)  in
///   dtable  (V, C)  in/out  +=
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void embedding_backward(Exec const& exec, View1<int const> token, View2<T const> dout, View2<Real<T>> dtable);

}  // namespace upit::kernels
