// SPDX-License-Identifier: Apache-2.0
// Owns the choice of execution space, memory space, and layout. One backend per build.
#pragma once

#include <Kokkos_Core.hpp>

#include <type_traits>

#include "upit/core/bfloat16.hpp"
#include "upit/core/index.hpp"

namespace upit {

using Exec = Kokkos::DefaultExecutionSpace;
using HostExec = Kokkos::DefaultHostExecutionSpace;
using Memory = Exec::memory_space;

/// Host memory that a device copies to and from at full speed, and while kernels run.
#if defined(KOKKOS_ENABLE_CUDA)
using PinnedMemory = Kokkos::CudaHostPinnedSpace;
#elif defined(KOKKOS_ENABLE_HIP) && KOKKOS_VERSION >= 40000
using PinnedMemory = Kokkos::HIPHostPinnedSpace;
#elif defined(KOKKOS_ENABLE_HIP)
using PinnedMemory = Kokkos::Experimental::HIPHostPinnedSpace;
#else
using PinnedMemory = Kokkos::HostSpace;
#endif

/// Row-major Views in the memory of the execution space. Built from a pointer they are unmanaged.
template <class T>
using View1 = Kokkos::View<T*, Kokkos::LayoutRight, Memory>;
template <class T>
using View2 = Kokkos::View<T**, Kokkos::LayoutRight, Memory>;
template <class T>
using View3 = Kokkos::View<T***, Kokkos::LayoutRight, Memory>;

template <class T>
using PinnedView1 = Kokkos::View<T*, Kokkos::LayoutRight, PinnedMemory>;
template <class T>
using HostView1 = Kokkos::View<T*, Kokkos::LayoutRight, Kokkos::HostSpace>;

/// The type in which sums, norms, router, losses and gradients of a model stored as T are held.
template <class T>
struct RealOf {
  using type = T;
};
template <>
struct RealOf<bfloat16> {
  using type = float;
};
template <class T>
using Real = typename RealOf<T>::type;

/// First n rows of a buffer as an (n, columns) View, without a copy.
template <class T>
View2<T> rows(View1<T> const& buffer, Index n, Index columns) {
  return View2<T>(buffer.data(), n, columns);
}

}  // namespace upit
