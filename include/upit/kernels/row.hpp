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

/// What a kernel gets that takes teams in every build, so that hosts can test what devices run.
using TeamRow = typename Kokkos::TeamPolicy<Exec>::member_type;

/// True if the row belongs to the calling thread alone. The functions below take a `Row`, or in any build an
/// `Index`: then the calling thread does all the work, for code already inside a parallel region.
template <class AnyRow>
inline constexpr bool kOneThread = std::is_same_v<AnyRow, Index>;

/// Policy that visits `rows` rows of about `columns` elements with a team each, of one thread on hosts.
inline Kokkos::TeamPolicy<Exec> team_policy(Exec const& exec, Index rows, Index columns) {
  // 32 lanes of 4 elements each keep a warp busy; 16 warps fit any register count a kernel here needs.
  int const warps = kHostRows ? 1 : static_cast<int>(std::clamp<Index>(columns / 128, 1, 16));
  return Kokkos::TeamPolicy<Exec>(exec, static_cast<int>(rows), warps, kHostRows ? 1 : 32);
}

/// Policy that visits `rows` rows of about `columns` elements; `columns` sets the size of a device team.
template <class Policy = RowPolicy>
Policy row_policy(Exec const& exec, Index rows, Index columns) {
  if constexpr (kHostRows) {
    (void)columns;
    return Policy(exec, Index{0}, rows);
  } else {
    return team_policy(exec, rows, columns);
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

/// On hosts, asks for n elements that are wanted later; on devices nothing. The processor foresees memory
/// read in order, but not beyond a page, nor the next of many short rows (up to half of a kernel's time,
/// measured).
template <class T>
KOKKOS_FORCEINLINE_FUNCTION void fetch(T const* x, Index n) {
#if defined(__GNUC__) && !defined(__CUDA_ARCH__) && !defined(__HIP_DEVICE_COMPILE__)
  constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));
  for (Index i = 0; i < n; i += kLine) __builtin_prefetch(x + i);
#else
  (void)x, (void)n;
#endif
}

/// The same for elements that will be written.
template <class T>
KOKKOS_FORCEINLINE_FUNCTION void fetch_to_write(T* x, Index n) {
#if defined(__GNUC__) && !defined(__CUDA_ARCH__) && !defined(__HIP_DEVICE_COMPILE__)
  constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));
  for (Index i = 0; i < n; i += kLine) __builtin_prefetch(x + i, 1);
#else
  (void)x, (void)n;
#endif
}

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

/// Calls f(i) as `row_for` does. Hosts ask on the way for n elements at each of `next`: what the calling
/// thread reads after this row. The last row may name itself.
template <class AnyRow, class F, class... T>
KOKKOS_FORCEINLINE_FUNCTION void row_for_fetching(AnyRow const& row, Index n, F const& f, T const*... next) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
    constexpr Index kStep = 64;
    Index begin = 0;
    for (; begin + kStep <= n; begin += kStep) {
      (fetch(next + begin, kStep), ...);
#pragma omp simd
      for (Index i = begin; i < begin + kStep; ++i) f(i);
    }
    (fetch(next + begin, n - begin), ...);
#pragma omp simd
    for (Index i = begin; i < n; ++i) f(i);
  } else {
    ((void)next, ...);
    row_for(row, n, f);
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

/// Partial sums or maxima that a host loop keeps in vector registers. `omp simd reduction` is not used: GCC
/// 12 adds up a vector's elements one after the other, which costs a short row more than its loop.
template <class R, Index kBytes>
struct Lanes {
  static constexpr Index kCount = kBytes / static_cast<Index>(sizeof(R));
  R lane[kCount];

  KOKKOS_FORCEINLINE_FUNCTION explicit Lanes(R value) {
    for (Index l = 0; l < kCount; ++l) lane[l] = value;
  }

  /// Folds halves until one is left.
  template <Index kHalf = kCount / 2, class F>
  KOKKOS_FORCEINLINE_FUNCTION R fold(F const& f) {
#pragma omp simd
    for (Index l = 0; l < kHalf; ++l) lane[l] = f(lane[l], lane[l + kHalf]);
    if constexpr (kHalf > 1) {
      return fold<kHalf / 2>(f);
    } else {
      return lane[0];
    }
  }

  KOKKOS_FORCEINLINE_FUNCTION R sum() {
    return fold([](R const a, R const b) { return a + b; });
  }

  /// lane = f(i, lane) for i in [0, n), each i in one lane.
  template <class F>
  KOKKOS_FORCEINLINE_FUNCTION void walk(Index n, F const& f) {
    Index i = 0;
    for (; i + kCount <= n; i += kCount) {
#pragma omp simd
      for (Index l = 0; l < kCount; ++l) lane[l] = f(i + l, lane[l]);
    }
#pragma omp simd
    for (Index l = 0; l < n - i; ++l) lane[l] = f(i + l, lane[l]);
  }
};

/// Bytes of lanes: four vectors, so that the loop does not wait for its own additions.
inline constexpr Index kLaneBytes = 256;

/// Sum of f(i) over [0, n), seen by every thread of the row. R must be given: `row_sum<float>(row, n, f)`.
/// One thread sums in blocks of 4096, so that a long row's sum loses no more digits than a short one's.
template <class R, class AnyRow, class F>
KOKKOS_FORCEINLINE_FUNCTION R row_sum(AnyRow const& row, Index n, F const& f) {
  if constexpr (kOneThread<AnyRow>) {
    (void)row;
    constexpr Index kBlock = 4096;
    if (n <= 16) {  // of one expert's rank
      Lanes<R, 32> lanes(R(0));
      lanes.walk(n, [&](Index const i, R const sum) { return sum + static_cast<R>(f(i)); });
      return lanes.sum();
    }
    R total = 0;
    for (Index begin = 0; begin < n; begin += kBlock) {
      Lanes<R, kLaneBytes> lanes(R(0));
      lanes.walk(n - begin < kBlock ? n - begin : kBlock,
                 [&](Index const i, R const sum) { return sum + static_cast<R>(f(begin + i)); });
      total += lanes.sum();
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
    auto const larger = [](R const value, R const most) { return value > most ? value : most; };
    Lanes<R, kLaneBytes> lanes(largest);
    lanes.walk(n, [&](Index const i, R const most) { return larger(f(i), most); });
    return lanes.fold(larger);
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
