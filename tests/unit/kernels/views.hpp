// SPDX-License-Identifier: Apache-2.0
// Owns the test kit of the kernels: random Views, copies to the host, comparison, central differences.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/core/types.hpp"

namespace upit::test {

using Values = std::vector<double>;

/// n numbers uniform in (-range, range), keyed by `stream`; exact in float, so that every type sees the same.
inline Values random_values(Index n, int stream, double range = 2.0) {
  RandomKey const key = random_key(20241001, "kernel tests", stream);
  Values v(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i)
    v[i] = static_cast<float>(range * (2.0 * random_uniform(key, static_cast<std::uint64_t>(i)) - 1.0));
  return v;
}

template <class T, class From>
View1<T> make1(std::vector<From> const& values) {
  View1<T> view("test", values.size());
  auto const host = Kokkos::create_mirror_view(view);
  for (std::size_t i = 0; i < values.size(); ++i) host(i) = static_cast<T>(values[i]);
  Kokkos::deep_copy(view, host);
  return view;
}

template <class T, class From>
View2<T> make2(Index n, Index c, std::vector<From> const& values) {
  View2<T> view("test", n, c);
  auto const host = Kokkos::create_mirror_view(view);
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < c; ++j) host(i, j) = static_cast<T>(values.at(i * c + j));
  Kokkos::deep_copy(view, host);
  return view;
}

template <class T>
Values to_host(View1<T> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  Values v;
  for (std::size_t i = 0; i < host.extent(0); ++i) v.push_back(static_cast<double>(host(i)));
  return v;
}

template <class T>
Values to_host(View2<T> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  Values v;
  for (std::size_t i = 0; i < host.extent(0); ++i)
    for (std::size_t j = 0; j < host.extent(1); ++j) v.push_back(static_cast<double>(host(i, j)));
  return v;
}

/// Half the distance between neighbours at 1: the largest relative error of one rounding.
template <class T>
double rounding() {
  return 0.5 * static_cast<double>(std::numeric_limits<T>::epsilon());
}

template <>
inline double rounding<bfloat16>() {
  return 0x1p-8;
}

/// Every |got - want| <= absolute + relative * |want|; NaN never passes.
inline void expect_close(Values const& got, Values const& want, double relative, double absolute = 0.0) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    bool const close = std::abs(got[i] - want[i]) <= absolute + relative * std::abs(want[i]);
    ASSERT_TRUE(close) << "element " << i << ": got " << got[i] << ", want " << want[i] << ", relative "
                       << relative << ", absolute " << absolute;
  }
}

/// df/dx by central differences: error h^2 f'''/6 + rounding(f)/h, near 1e-9 for f of order 1.
inline Values central_differences(std::function<double(Values const&)> const& f, Values x, double h = 1e-5) {
  Values gradient;
  for (double& value : x) {
    double const at = value;
    value = at + h;
    double const above = f(x);
    value = at - h;
    double const below = f(x);
    value = at;
    gradient.push_back((above - below) / (2 * h));
  }
  return gradient;
}

/// Sum of a * b: the scalar whose gradient a backward kernel is given.
inline double dot(Values const& a, Values const& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b.at(i);
  return sum;
}

struct Shape {
  Index n, c;
};

}  // namespace upit::test
