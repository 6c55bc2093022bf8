// SPDX-License-Identifier: Apache-2.0
// Owns the profiling region that ends with its scope.
#pragma once

#include <Kokkos_Core.hpp>

namespace upit {

/// A region of Kokkos' profiling interface, left also where an exception passes: one that stays open would
/// take in all that follows. Kokkos::Profiling::ScopedRegion does the same from release 4.1 on.
class ProfilingRegion {
 public:
  /// `label` begins with "upit::".
  explicit ProfilingRegion(char const* label) { Kokkos::Profiling::pushRegion(label); }
  ~ProfilingRegion() { Kokkos::Profiling::popRegion(); }
  ProfilingRegion(ProfilingRegion const&) = delete;
  ProfilingRegion& operator=(ProfilingRegion const&) = delete;
};

}  // namespace upit
