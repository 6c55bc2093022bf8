// SPDX-License-Identifier: Apache-2.0
// Owns the measurement of what the linked BLASes reach: the ceiling that steps are compared with.
#pragma once

#include <array>
#include <cstring>
#include <span>
#include <string_view>

#include "upit/core/types.hpp"

namespace upit {

/// C (m, n) = A (m, k) B (k, n).
struct ProductShape {
  Index m = 0, n = 0, k = 0;
};

/// Products whose best speed is the ceiling: a square one, and those of an FFN.
inline constexpr std::array<ProductShape, 3> kCeilingShapes = {
    {{1024, 1024, 1024}, {2048, 2752, 512}, {2048, 512, 2752}}};

/// A float whose halves are both `value` as bfloat16.
inline float bf16_pair(float value) {
  bfloat16 const pair[2] = {bfloat16(value), bfloat16(value)};
  float out = 0.0f;
  std::memcpy(&out, pair, sizeof(out));
  return out;
}

/// Times products of every linked BLAS, whatever rule `gemm` picks one by, on the threads that it uses: of
/// float operands, or of bfloat16 operands with sums in float.
class GemmPeak {
 public:
  /// Buffers for the largest of these shapes.
  explicit GemmPeak(std::span<ProductShape const> shapes, bool bf16 = false);

  /// Single precision: "OpenBLAS", and "oneDNN" where it is linked. bf16: the two kernels of oneDNN, each
  /// with results in bfloat16 and in float; nothing where there are no such
  /// products. Devices: the one library.
  std::span<std::string_view const> libraries() const;

  /// GFLOP/s (2 m n k each) of the best of `repeats` products by library number `library`.
  double measure(Index library, ProductShape const& shape, Index repeats) const;

 private:
  bool bf16_;
  View1<float> a_, b_, c_;  // bf16: two numbers in each element
};

}  // namespace upit
