// SPDX-License-Identifier: Apache-2.0
// Owns copies of chosen rows out of a matrix and back.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// y[m] = x[row[m]].
///
///   x    (N, C)  in
///   row  (M)     in   in [0, N), any order, repeats allowed; not checked on the device
///   y    (M, C)  out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void gather_rows(Exec const& exec, View2<T const> x, View1<int const> row, View2<T> y);

/// x[row[m]] = y[m]; rows of x that are not named keep their values.
///
///   y    (M, C)  in
///   row  (M)     in      in [0, N), distinct; not checked on the device
///   x    (N, C)  in/out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void scatter_rows(Exec const& exec, View2<T const> y, View1<int const> row, View2<T> x);

}  // namespace upit::kernels
