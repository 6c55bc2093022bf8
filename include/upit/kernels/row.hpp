// SPDX-License-Identifier: Apache-2.0
// Owns the row idiom of the kernels: one row of a matrix per thread on hosts, per team on devices.
#pragma once

#include <Kokkos_Core.hpp>
#include <algorithm>
#include <type_traits>

#include "upit/core/types.hpp"

namespace upit::kernels {

/// True if `Exec` runs on the host: there a row belongs to one thread and is walked by vector instructions.
inline constexpr bool kHostRows = std::is_same_v<Exec, HostExec>;

using RowPolicy = std::conditional_t<kHostRows, Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>,
                                     Kokkos::TeamPolicy<Exec>>;

namespace row_detail {
template <bool Host>
struct RowType {
  using type = Index;
};
template <>
struct RowType<false> {
  using type = typename Kokkos::TeamPolicy<Exec>::member_type;
};
}  // namespace row_detail

/// What a kernel over rows receives: `KOKKOS_LAMBDA(Row const& row)`.
using Row = typename row_detail::RowType<kHostRows>::type;

/// True if the row belongs to the calling thread alone. The functions below take a `Row`, or in any build an
/// `Index`: then the calling thread does all the work, for code already inside a parallel region.
template <class AnyRow>
inline constexpr bool kOneThread = std::is_same_v<AnyRow, Index>;

/// Policy that visits `rows` rows of about `columns` elements; `columns` sets the size of a device team.
template <class Policy = RowPolicy>
Policy row_policy(Exec const& exec, Index rows, Index columns) {
  if constexpr (kHostRows) {
    (void)columns;
    return Policy(exec, Index{0}, rows);
  } else {
    // 32 lanes of 4 elements each keep a warp busy; 16 warps fit any register count a kernel here needs.
    int const warps = static_cast<int>(std::clamp<Index>(columns / 128, 1, 16));
    return Policy(exec, static_cast<int>(rows), warps, 32);
  }
}

/// Index of the row in [0, rows).
template <class AnyRow>
KOKKOS_FORCEINLINE_FUNCTION Index row_index(AnyRow const& row) {
  if constexpr (kOneThread<AnyRow>) {
    return row;
  } else {
    return static_cast<Index>(row.league_rank());
  }
}

// These functions are inlined by force: behind a call, GCC does not see that a functor reads memory in order,
// and gathers its elements one by one (seen with GCC 12: four times the time of a sum).

/// Calls f(i) for i in [0, n), iterations independent. Follow with `row_barrier` before another thread's
/// writes are read.
template <class AnyRow, class F>
KOKKOS_FORCEINLINE_FUNCTION void row_for(AnyRow const& row, Index n, F const& f) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
#pragma omp simd
    for (Index i = 0; i < n; ++i) f(i);
  } else {
    Kokkos::parallel_for(Kokkos::TeamVectorRange(row, n), f);
  }
}

/// Calls f(j, i) for j in [0, m), i in [0, n), iterations independent; i is the vector index.
template <class AnyRow, class F>
KOKKOS_FORCEINLINE_FUNCTION void row_for(AnyRow const& row, Index m, Index n, F const& f) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
    for (Index j = 0; j < m; ++j) {
#pragma omp simd
      for (Index i = 0; i < n; ++i) f(j, i);
    }
  } else {
    Kokkos::parallel_for(Kokkos::TeamVectorRange(row, m * n), [&](Index const e) {
      Index const j = e / n;
      f(j, e - j * n);
    });
  }
}

/// Sum of f(i) over [0, n), seen by every thread of the row. R must be given: `row_sum<float>(row, n, f)`.
/// One thread sums in blocks of 1024, so that a long row's sum loses no more digits than a short one's.
template <class R, class AnyRow, class F>
KOKKOS_FORCEINLINE_FUNCTION R row_sum(AnyRow const& row, Index n, F const& f) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
    constexpr Index kBlock = 1024;
    R total = 0;
    for (Index begin = 0; begin < n; begin += kBlock) {
      Index const end = begin + kBlock < n ? begin + kBlock : n;
      R sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index i = begin; i < end; ++i) sum += f(i);
      total += sum;
    }
    return total;
  } else {
    R total = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(row, n), [&](Index const i, R& sum) { sum += f(i); }, total);
    return total;
  }
}

/// Largest f(i) over [0, n), seen by every thread of the row; the lowest finite R if n = 0. A NaN is passed
/// over.
template <class R, class AnyRow, class F>
KOKKOS_FORCEINLINE_FUNCTION R row_max(AnyRow const& row, Index n, F const& f) {
  R largest = Kokkos::reduction_identity<R>::max();
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
#pragma omp simd reduction(max : largest)
    for (Index i = 0; i < n; ++i) {
      R const value = f(i);
      largest = value > largest ? value : largest;
    }
  } else {
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(row, n),
        [&](Index const i, R& most) {
          R const value = f(i);
          most = value > most ? value : most;
        },
        Kokkos::Max<R>(largest));
  }
  return largest;
}

/// Calls f() once for the row.
template <class AnyRow, class F>
KOKKOS_FORCEINLINE_FUNCTION void row_once(AnyRow const& row, F const& f) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
    f();
  } else {
    Kokkos::single(Kokkos::PerTeam(row), f);
  }
}

/// Waits for every thread of the row, and makes what they wrote visible to each other.
template <class AnyRow>
KOKKOS_FORCEINLINE_FUNCTION void row_barrier(AnyRow const& row) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
  } else {
    row.team_barrier();
  }
}

}  // namespace upit::kernels
