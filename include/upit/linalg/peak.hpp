// SPDX-License-Identifier: Apache-2.0
// Owns the measurement of what the linked BLASes reach: the ceiling that steps are compared with.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "upit/core/types.hpp"

namespace upit {

/// C (m, n) = A (m, k) B (k, n).
struct ProductShape {
  Index m = 0, n = 0, k = 0;
};

/// Products whose best speed is the ceiling: a square one, and those of an FFN. Larger ones on a device,
/// which takes a millisecond for them.
inline constexpr std::array<ProductShape, 3> kHostCeilingShapes = {
    {{1024, 1024, 1024}, {2048, 2752, 512}, {2048, 512, 2752}}};
inline constexpr std::array<ProductShape, 3> kDeviceCeilingShapes = {
    {{8192, 8192, 8192}, {16384, 11008, 2048}, {16384, 2048, 11008}}};
inline constexpr std::array<ProductShape, 3> kCeilingShapes =
    std::is_same_v<Exec, HostExec> ? kHostCeilingShapes : kDeviceCeilingShapes;

/// Times products of every linked BLAS, whatever rule `gemm` picks one by, on the threads that it uses: of
/// float operands, or of bfloat16 operands with sums in float.
class GemmPeak {
 public:
  /// Buffers for the largest of these shapes.
  explicit GemmPeak(std::span<ProductShape const> shapes, bool bf16 = false);

  /// Single precision: "OpenBLAS", and "oneDNN" where it is linked. bf16: the two kernels of oneDNN, each
  /// with results in bfloat16 and in float; nothing where there are no such products. On a device its one
  /// library.
  std::vector<std::string_view> libraries() const;

  /// GFLOP/s (2 m n k each) of the best of `repeats` products by library number `library`.
  double measure(Index library, ProductShape const& shape, Index repeats) const;

 private:
  bool bf16_;
  View1<float> a_, b_, c_;  // bf16: two numbers in each element
};

}  // namespace upit
