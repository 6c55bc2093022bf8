// SPDX-License-Identifier: Apache-2.0
// Owns the exponential of the kernels: one that loops over it can be vectorised with.
#pragma once

#include <Kokkos_Core.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace upit {

/// exp(x) within 2 ulp wherever the result is a normal float. Branch-free and without calls, so that a loop
/// over it vectorises (the C library's does not). Results below the smallest normal number are 0 (denormals
/// slow every later product), above the largest infinity; NaN stays NaN.
///
/// x = n ln 2 + r with ln 2 in two parts (Cody and Waite), exp(r) on |r| <= ln(2)/2 by the polynomial of
/// Cephes (Moshier, expf.c), then n is added to the exponent's bits.
KOKKOS_INLINE_FUNCTION float fast_exp(float x) {
  constexpr float kRound = 12582912.0f;      // 1.5 * 2^23: adding it leaves an integer in the low bits
  constexpr float kLargest = 88.7228317f;    // exp of the next float overflows
  constexpr float kSmallest = -87.3365402f;  // exp of the float below is denormal
  constexpr float kInfinity = INFINITY;      // the macro: numeric_limits is host code to nvcc

  float const shifted = x * 1.44269504088896341f + kRound;
  float const n = shifted - kRound;
  float const r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // the first product is exact: 9 bits times 8
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;

  std::uint32_t bits = 0;
  std::uint32_t exponent = 0;
  memcpy(&bits, &p, sizeof(bits));
  memcpy(&exponent, &shifted, sizeof(exponent));
  bits += exponent << 23;  // only n's low bits survive the shift; 1.5 * 2^23 itself has none of them
  float y = 0.0f;
  memcpy(&y, &bits, sizeof(y));
  // Out of range, y is garbage and replaced; the product is infinite, or x if that is no number.
  y = x < kSmallest ? 0.0f : y;
  return x <= kLargest ? y : x * kInfinity;
}

/// exp(x) of the C library: double runs are for checks.
KOKKOS_INLINE_FUNCTION double fast_exp(double x) { return exp(x); }

}  // namespace upit
