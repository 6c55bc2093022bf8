// SPDX-License-Identifier: Apache-2.0
// Owns the switch that lets a device multiply single-precision matrices with fewer digits, and its scope.
#pragma once

namespace upit {

/// Whether the products of this build's device can take TF32: NVIDIA's from compute capability 8.0 on.
bool has_tf32();

/// With `on`, products of float matrices may round their inputs to TF32 (10 bits behind the point) and add in
/// fp32. Off from the start. Without `has_tf32` the products stay what they are. Of the program: one host
/// thread sets it and asks for products.
void allow_tf32(bool on);

/// Whether a product of float matrices that is asked for now may.
bool tf32_allowed();

/// Products that are asked for while one lives keep their digits. For those whose results decide: the logits
/// of routers choose experts, and 10 bits would choose others.
class FullFp32 {
 public:
  FullFp32();
  ~FullFp32();
  FullFp32(FullFp32 const&) = delete;
  FullFp32& operator=(FullFp32 const&) = delete;
};

}  // namespace upit
