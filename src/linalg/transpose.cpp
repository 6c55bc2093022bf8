// SPDX-License-Identifier: Apache-2.0
// Owns the transposition by blocks of 8 x 8 in vector registers.
#include "upit/linalg/transpose.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace upit {
namespace {

constexpr Index kBlock = 8;  // floats of a 256-bit register, which every processor of today's clusters has
constexpr Index kTile = 64;  // rows and columns that stay in the first-level cache together

#if defined(__clang__) || __GNUC__ >= 12
constexpr bool kHasShuffles = true;

using Vector = float __attribute__((vector_size(kBlock * sizeof(float))));

template <class T>
Vector load(T const* p) {
  Vector v;
  if constexpr (std::is_same_v<T, float>) {
    std::memcpy(&v, p, sizeof(v));
  } else {
    for (int i = 0; i < kBlock; ++i) v[i] = static_cast<float>(p[i]);
  }
  return v;
}

// Three rounds of pairwise exchange: neighbouring rows, rows two apart, rows four apart.
template <class T>
void transpose_block(T const* a, Index lda, float* t, Index ldt) {
  Vector r[kBlock], s[kBlock];
  for (int i = 0; i < kBlock; ++i) r[i] = load(a + i * lda);
  for (int i = 0; i < 4; ++i) {
    s[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    s[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = i; j < i + 2; ++j) {
      r[j] = __builtin_shufflevector(s[j], s[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      r[j + 2] = __builtin_shufflevector(s[j], s[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int j = 0; j < 4; ++j) {
    s[j] = __builtin_shufflevector(r[j], r[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    s[j + 4] = __builtin_shufflevector(r[j], r[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < kBlock; ++i) std::memcpy(t + i * ldt, &s[i], sizeof(Vector));
}
#else
constexpr bool kHasShuffles = false;
template <class T>
void transpose_block(T const*, Index, float*, Index) {}
#endif

template <class T>
void transpose_tile(Index rows, Index columns, T const* a, Index lda, Real<T>* t, Index ldt) {
  Index whole_rows = 0, whole_columns = 0;
  if constexpr (kHasShuffles && std::is_same_v<Real<T>, float>) {
    whole_rows = rows / kBlock * kBlock;
    whole_columns = columns / kBlock * kBlock;
    for (Index c = 0; c < whole_columns; c += kBlock)
      for (Index r = 0; r < whole_rows; r += kBlock)
        transpose_block(a + r * lda + c, lda, t + c * ldt + r, ldt);
  }
  for (Index c = 0; c < columns; ++c)
    for (Index r = c < whole_columns ? whole_rows : 0; r < rows; ++r)
      t[c * ldt + r] = static_cast<Real<T>>(a[r * lda + c]);
}

}  // namespace

template <class T>
void transpose_in_thread(Index rows, Index columns, T const* a, Index lda, Real<T>* t, Index ldt) {
  for (Index r = 0; r < rows; r += kTile)
    for (Index c = 0; c < columns; c += kTile)
      transpose_tile(std::min(kTile, rows - r), std::min(kTile, columns - c), a + r * lda + c, lda,
                     t + c * ldt + r, ldt);
}

template <class T>
void transpose_on_host(Index rows, Index columns, T const* a, Index lda, Real<T>* t) {
  Index const across = (columns + kTile - 1) / kTile, tiles = across * ((rows + kTile - 1) / kTile);
  Kokkos::parallel_for("upit::transpose", Kokkos::RangePolicy<HostExec, Kokkos::IndexType<Index>>(0, tiles),
                       [=](Index const tile) {
                         Index const r = tile / across * kTile, c = tile % across * kTile;
                         transpose_tile(std::min(kTile, rows - r), std::min(kTile, columns - c),
                                        a + r * lda + c, lda, t + c * rows + r, rows);
                       });
  HostExec().fence();
}

#define UPIT_INSTANTIATE(T)                                                             \
  template void transpose_in_thread<T>(Index, Index, T const*, Index, Real<T>*, Index); \
  template void transpose_on_host<T>(Index, Index, T const*, Index, Real<T>*);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
UPIT_INSTANTIATE(bfloat16)
#undef UPIT_INSTANTIATE

}  // namespace upit
