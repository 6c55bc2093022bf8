// SPDX-License-Identifier: Apache-2.0
// Owns sums, fills and scalings that go element by element over contiguous memory.
#pragma once

#include "upit/core/types.hpp"

namespace upit::kernels {

/// y += x.
///
///   x  (n) or (N, C)  in
///   y  the same       in/out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void add(Exec const& exec, View1<T const> x, View1<T> y);
template <class T>
void add(Exec const& exec, View2<T const> x, View2<T> y);

/// x = value in every element of x, (n) or (N, C).
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void fill(Exec const& exec, View1<T> x, T value);
template <class T>
void fill(Exec const& exec, View2<T> x, T value);

/// x *= factor in every element of x, (n) or (N, C).
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void scale(Exec const& exec, Real<T> factor, View1<T> x);
template <class T>
void scale(Exec const& exec, Real<T> factor, View2<T> x);

}  // namespace upit::kernels
