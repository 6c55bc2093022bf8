// SPDX-License-Identifier: Apache-2.0
// Owns the host-side shape checks that every kernel makes before its launch.
#pragma once

#include <source_location>

#include "upit/core/error.hpp"
#include "upit/core/types.hpp"

namespace upit::kernels {

template <class View>
Index extent(View const& view, int axis) {
  return static_cast<Index>(view.extent(axis));
}

/// Throws `std::logic_error` naming `what` unless `view` is (n).
template <class View>
void expect_shape(View const& view, Index n, char const* what,
                  std::source_location where = std::source_location::current()) {
  static_assert(View::rank == 1);
  expect(extent(view, 0) == n, what, where);
}

/// Throws `std::logic_error` naming `what` unless `view` is (n, c).
template <class View>
void expect_shape(View const& view, Index n, Index c, char const* what,
                  std::source_location where = std::source_location::current()) {
  static_assert(View::rank == 2);
  expect(extent(view, 0) == n && extent(view, 1) == c, what, where);
}

}  // namespace upit::kernels
