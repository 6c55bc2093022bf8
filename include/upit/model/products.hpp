// SPDX-License-Identifier: Apache-2.0
// Owns the three products of a linear layer y = x W^T, so that layers read like their formulas.
#pragma once

#include "upit/core/types.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit {

/// y (N, out) = x (N, in) W^T, W (out, in); beta = 1 adds. TC is T or Real<T>.
template <class T, class TC = T>
void linear(Exec const& exec, View2<T> const& x, T const* w, View2<TC> const& y, Real<T> beta = 0) {
  auto const n = static_cast<Index>(x.extent(0)), in = static_cast<Index>(x.extent(1)),
             out = static_cast<Index>(y.extent(1));
  gemm<T>(exec, Op::none, Op::transpose, n, out, in, 1, x.data(), in, w, in, beta, y.data(), out);
}

/// dx (N, in) = dy (N, out) W; beta = 1 adds.
template <class T>
void linear_backward(Exec const& exec, View2<T> const& dy, T const* w, View2<T> const& dx, Real<T> beta = 0) {
  auto const n = static_cast<Index>(dx.extent(0)), in = static_cast<Index>(dx.extent(1)),
             out = static_cast<Index>(dy.extent(1));
  gemm<T>(exec, Op::none, Op::none, n, in, out, 1, dy.data(), out, w, in, beta, dx.data(), in);
}

/// dW (out, in) += dy^T x; nothing if the tensor is not trained (null).
template <class T>
void linear_backward_weight(Exec const& exec, View2<T> const& dy, View2<T> const& x, Real<T>* dw) {
  if (dw == nullptr) return;
  auto const n = static_cast<Index>(x.extent(0)), in = static_cast<Index>(x.extent(1)),
             out = static_cast<Index>(dy.extent(1));
  gemm<T>(exec, Op::transpose, Op::none, out, in, n, 1, dy.data(), out, x.data(), in, 1, dw, in);
}

}  // namespace upit
