// SPDX-License-Identifier: Apache-2.0
// Owns the 16-bit storage type: the upper half of a float, in which a model's weights and activations lie.
#pragma once

#include <cstdint>
#include <cstring>

#include "upit/core/index.hpp"

namespace upit {

/// Storage alone: it is read as a float and has no arithmetic of its own. Kokkos before 4 has no such type,
/// and on hosts the later ones make theirs as wide as a float.
struct bfloat16 {
  std::uint16_t bits;

  bfloat16() = default;

  /// Rounds to nearest, ties to even; overflow gives infinity, NaN stays a NaN. Branch-free integer
  /// arithmetic, so that loops over it vectorise.
  UPIT_INLINE_FUNCTION explicit bfloat16(float value) {
    std::uint32_t u = 0;
    memcpy(&u, &value, sizeof(u));
    std::uint32_t const even = (u >> 16) & 1U;
    std::uint32_t const rounded = (u + 0x7fffU + even) >> 16;
    std::uint32_t const quiet = (u >> 16) | 0x40U;  // a NaN whose payload is in the lower half stays one
    bits = static_cast<std::uint16_t>((u & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
  }
  /// By way of float: two roundings.
  UPIT_INLINE_FUNCTION explicit bfloat16(double value) : bfloat16(static_cast<float>(value)) {}
  UPIT_INLINE_FUNCTION explicit bfloat16(int value) : bfloat16(static_cast<float>(value)) {}

  /// Exact.
  UPIT_INLINE_FUNCTION operator float() const {
    std::uint32_t const u = static_cast<std::uint32_t>(bits) << 16;
    float value = 0.0f;
    memcpy(&value, &u, sizeof(value));
    return value;
  }
};

static_assert(sizeof(bfloat16) == 2);

}  // namespace upit
