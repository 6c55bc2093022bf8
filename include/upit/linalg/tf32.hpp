// SPDX-License-Identifier: Apache-2.0
// Owns the switch that lets a device multiply single-precision matrices with fewer digits.
#pragma once

namespace upit {

/// With `on`, products of float matrices on an NVIDIA device may round their inputs to TF32 (10 bits behind
/// the point) and add in fp32. Off from the start. False where the library of this build knows no TF32, that
/// is on hosts and AMD devices; there `on` changes nothing.
bool allow_tf32(bool on);

}  // namespace upit
