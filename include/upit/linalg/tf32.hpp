// SPDX-License-Identifier: Apache-2.0
// Owns the switch that lets a device multiply single-precision matrices with fewer digits, and its scope.
#pragma once

namespace upit {

/// Whether the products of this build's device can take TF32: NVIDIA's from compute capability 8.0 on.
bool has_tf32();

namespace tf32_detail {
// Of the program: products are asked for by one host thread.
inline bool allowed = false;
inline int withheld = 0;
}  // namespace tf32_detail

/// With `on`, products of float matrices may round their inputs to TF32 (10 bits behind the point) and add in
/// fp32. Off from the start. Without `has_tf32` the products stay what they are.
inline void allow_tf32(bool on) { tf32_detail::allowed = on; }

/// Whether a product of float matrices that is asked for now may.
inline bool tf32_allowed() { return tf32_detail::allowed && tf32_detail::withheld == 0; }

/// Products that are asked for while one lives keep their digits. For those whose results decide: the logits
/// of routers choose experts, and 10 bits would choose others.
class FullFp32 {
 public:
  FullFp32() { ++tf32_detail::withheld; }
  ~FullFp32() { --tf32_detail::withheld; }
  FullFp32(FullFp32 const&) = delete;
  FullFp32& operator=(FullFp32 const&) = delete;
};

}  // namespace upit
