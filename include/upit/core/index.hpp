// SPDX-License-Identifier: Apache-2.0
// Owns the type of counts and the mark of device functions. Knows nothing of Kokkos: files that include no
// more than this are compiled by the host's compiler in device builds too.
#pragma once

#include <cstddef>
#include <cstdint>

/// Before a function that kernels and host code call; KOKKOS_INLINE_FUNCTION where there is Kokkos.
#if defined(__CUDACC__) || defined(__HIPCC__)
#define UPIT_INLINE_FUNCTION __host__ __device__ inline
#else
#define UPIT_INLINE_FUNCTION inline
#endif

namespace upit {

/// Counts, offsets and extents: one stack of experts passes 2^31 elements.
using Index = std::int64_t;

/// An index, which is never negative, as the containers of the standard library take it: v[at(i)].
constexpr std::size_t at(Index i) { return static_cast<std::size_t>(i); }

}  // namespace upit
