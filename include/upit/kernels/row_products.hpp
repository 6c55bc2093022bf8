// SPDX-License-Identifier: Apache-2.0
// Owns products of the rows of one matrix with those of another, in double: similarity of low-rank factors.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Sums over a of x_i(a, :) . x_j(b, :) for chosen pairs, in double and in an order that depends on K alone.
///
///   x      (P, R, K)  in
///   pairs  (Q, 2)     in   i and j
///   out    (Q, R, R)  out  entry (a, b); with extent (Q, R, 1) only a = b
void row_products(Exec const& exec, View3<float const> const& x, View2<Index const> const& pairs,
                  View3<double> const& out);

}  // namespace upit::kernels
