// SPDX-License-Identifier: Apache-2.0
// Owns what the file formats share about shapes: their text in messages and their element count.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "upit/core/index.hpp"

namespace upit {

/// "(2, 3)"; "()" for a scalar.
inline std::string shape_text(std::span<Index const> shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

/// Product of the extents; empty if one is negative or the product passes 2^63 - 1.
inline std::optional<Index> element_count(std::span<Index const> shape) {
  Index count = 1;
  bool zero = false;
  for (Index const extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) zero = true;
    if (!zero && __builtin_mul_overflow(count, extent, &count)) return std::nullopt;
  }
  return zero ? 0 : count;
}

}  // namespace upit
