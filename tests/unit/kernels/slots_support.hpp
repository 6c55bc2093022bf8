// SPDX-License-Identifier: Apache-2.0
// Owns what the tests of routing kernels share: copies to and from Views, numbers, central differences.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/core/types.hpp"

namespace upit::slots_test {

template <class T>
View1<T> to_view(std::vector<T> const& x) {
  View1<T> const view("x", x.size());
  Kokkos::deep_copy(view, Kokkos::View<T const*, Kokkos::LayoutRight, Kokkos::HostSpace>(x.data(), x.size()));
  return view;
}

template <class T>
View2<T> to_view(std::vector<T> const& x, Index n, Index c) {
  EXPECT_EQ(static_cast<Index>(x.size()), n * c);
  View2<T> const view("x", n, c);
  Kokkos::deep_copy(view, Kokkos::View<T const**, Kokkos::LayoutRight, Kokkos::HostSpace>(x.data(), n, c));
  return view;
}

template <class V>
auto to_vector(V const& view) {
  std::vector<typename V::non_const_value_type> x(view.size());
  Exec().fence();
  auto const copy = Kokkos::create_mirror_view(view);
  Kokkos::deep_copy(copy, view);
  std::copy_n(copy.data(), x.size(), x.begin());
  return x;
}

/// n standard normal numbers of stream `seed`, rounded to T.
template <class T>
std::vector<T> normal(Index n, int seed) {
  RandomKey const key = random_key(static_cast<std::uint64_t>(seed), "test");
  std::vector<T> x(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) {
    x[static_cast<std::size_t>(i)] = T(random_normal(key, static_cast<std::uint64_t>(i)));
  }
  return x;
}

template <class T>
std::vector<double> to_double(std::vector<T> const& x) {
  return {x.begin(), x.end()};
}

/// K distinct experts for each of n tokens.
inline std::vector<int> distinct_experts(Index n, Index experts, Index active, int seed) {
  RandomKey const key = random_key(static_cast<std::uint64_t>(seed), "experts");
  std::vector<int> chosen;
  for (Index i = 0; i < n; ++i) {
    std::vector<int> ids(static_cast<std::size_t>(experts));
    for (Index e = 0; e < experts; ++e) ids[static_cast<std::size_t>(e)] = static_cast<int>(e);
    for (Index k = 0; k < active; ++k) {
      auto const left = static_cast<std::uint64_t>(experts - k);
      auto const j = static_cast<Index>(random_below(key, static_cast<std::uint64_t>(i * active + k), left));
      std::swap(ids[static_cast<std::size_t>(k)], ids[static_cast<std::size_t>(k + j)]);
      chosen.push_back(ids[static_cast<std::size_t>(k)]);
    }
  }
  return chosen;
}

/// The stable order of slots by expert and its inverse.
struct Order {
  std::vector<int> order, place;
};
inline Order sorted_slots(std::vector<int> const& expert) {
  Order o;
  o.order.resize(expert.size());
  o.place.resize(expert.size());
  for (std::size_t s = 0; s < expert.size(); ++s) o.order[s] = static_cast<int>(s);
  std::stable_sort(o.order.begin(), o.order.end(), [&](int a, int b) {
    return expert[static_cast<std::size_t>(a)] < expert[static_cast<std::size_t>(b)];
  });
  for (std::size_t p = 0; p < expert.size(); ++p) {
    o.place[static_cast<std::size_t>(o.order[p])] = static_cast<int>(p);
  }
  return o;
}

/// Roundings of T in a result of size `scale`.
template <class T>
double roundings(double count, double scale = 1.0) {
  return count * static_cast<double>(std::numeric_limits<T>::epsilon()) * std::max(scale, 1e-30);
}

template <class T>
void expect_near_all(std::vector<T> const& found, std::vector<double> const& expected, double relative,
                     double absolute, std::string const& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(found[i]), expected[i], relative * std::abs(expected[i]) + absolute)
        << what << " at " << i;
  }
}

/// Compares `gradient` with (f(x + h) - f(x - h)) / 2h for every entry of x. With h = 1e-5, sums of size 10^2
/// and derivatives of order one the truncation is ~1e-10 and the rounding 1e2 * 1e-16 / 1e-5 = 1e-9.
inline void expect_gradient(std::function<double(std::vector<double> const&)> const& f, std::vector<double> x,
                            std::vector<double> const& gradient, std::string const& what) {
  ASSERT_EQ(gradient.size(), x.size()) << what;
  double const h = 1e-5;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double const at = x[i];
    x[i] = at + h;
    double const above = f(x);
    x[i] = at - h;
    double const below = f(x);
    x[i] = at;
    ASSERT_NEAR(gradient[i], (above - below) / (2 * h), 2e-8) << what << " at " << i;
  }
}

inline double dot(std::vector<double> const& a, std::vector<double> const& b) {
  EXPECT_EQ(a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

using Reals = ::testing::Types<float, double>;

}  // namespace upit::slots_test
