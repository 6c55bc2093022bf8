// SPDX-License-Identifier: Apache-2.0
// Owns the answer to who may read a device's memory: the host, MPI, or neither.
#pragma once

#include <mpi.h>
#if defined(OPEN_MPI) && __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

#include "upit/core/types.hpp"

namespace upit {

inline constexpr bool kHostReachesMemory = Kokkos::SpaceAccessibility<Kokkos::HostSpace, Memory>::accessible;

/// Whether MPI takes pointers into the memory of this build's device.
inline bool mpi_is_gpu_aware() {
#if defined(KOKKOS_ENABLE_CUDA) && defined(OMPI_HAVE_MPI_EXT_CUDA)
  return MPIX_Query_cuda_support() == 1;
#elif defined(KOKKOS_ENABLE_HIP) && defined(OMPI_HAVE_MPI_EXT_ROCM)
  return MPIX_Query_rocm_support() == 1;
#else
  return false;
#endif
}

}  // namespace upit
