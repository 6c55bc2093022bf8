// SPDX-License-Identifier: Apache-2.0
// Owns inner products of task vectors whose values lie in memory as a pool of experts and their base.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// out(r, i) = sum over row r of (pool(i) - base) (pool(other) - base), in double: the differences are exact
/// there, and rows have the same bits wherever a piece begins and however many experts are asked for.
///
///   base   (n)           in   n = rows * columns; extent 0: zero
///   pool   (P, >= n)     in   an expert a row, of which the first n elements count
///   other                     in [0, P)
///   out    (rows, I)     out  experts [0, I), I <= P
///
/// Enqueued on `exec`, not finished, when it returns.
void task_products(Exec const& exec, View1<float const> const& base, View2<float const> const& pool,
                   Index other, Index columns, View2<double> const& out);

}  // namespace upit::kernels
