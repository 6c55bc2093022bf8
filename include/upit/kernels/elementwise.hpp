// SPDX-License-Identifier: Apache-2.0
// Owns sums, conversions, fills and scalings that go element by element over contiguous memory.
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

/// The same with x wider than y, which is rounded once.
template <class T>
void add_wide(Exec const& exec, View2<Real<T> const> x, View2<T> y);

/// y = x, widened or rounded: bfloat16 to float or float to bfloat16.
///
///   x  (n) or (N, C)  in
///   y  the same       out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class To, class From>
void convert(Exec const& exec, View1<From const> x, View1<To> y);
template <class To, class From>
void convert(Exec const& exec, View2<From const> x, View2<To> y);

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
