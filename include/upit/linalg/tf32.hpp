// SPDX-License-Identifier: Apache-2.0
// Owns the switch that lets a device multiply single-precision matrices with fewer digits.
#pragma once

namespace upit {

/// Whether the library of this build knows TF32: on NVIDIA devices.
bool has_tf32();

/// With `on`, products of float matrices may round their inputs to TF32 (10 bits behind the point) and add in
/// fp32. Off from the start. Without `has_tf32` nothing changes.
void allow_tf32(bool on);

}  // namespace upit
