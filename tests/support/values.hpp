// SPDX-License-Identifier: Apache-2.0
// Owns how tests read and write single values that may lie in a device's memory.
#pragma once

#include <vector>

#include "upit/core/types.hpp"

namespace upit::test {

/// The value at `place`, after all kernels.
template <class T>
T get(T const* place) {
  std::remove_const_t<T> value{};
  Kokkos::deep_copy(HostView1<T>(&value, 1), View1<T const>(place, 1));
  return value;
}

template <class T>
void put(T* place, T value) {
  Kokkos::deep_copy(View1<T>(place, 1), HostView1<T>(&value, 1));
}

/// All of `values` to `place` on.
template <class T>
void put_all(T* place, std::vector<T> const& values) {
  auto const n = values.size();
  Kokkos::View<T const*, Kokkos::LayoutRight, Kokkos::HostSpace> const host(values.data(), n);
  Kokkos::deep_copy(View1<T>(place, n), host);
}

}  // namespace upit::test
