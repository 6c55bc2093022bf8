// SPDX-License-Identifier: Apache-2.0
// Owns what tests of matrix products share: values, shapes, plain loops and their tolerance.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit::test {

template <class T>
View1<T> random_view(Index n, int stream) {
  RandomKey const key = random_key(5, "gemm tests", stream);
  View1<T> view("test", n);
  auto const host = Kokkos::create_mirror_view(view);
  for (Index i = 0; i < n; ++i) host(i) = T(static_cast<float>(2.0 * random_uniform(key, i) - 1.0));
  Kokkos::deep_copy(view, host);
  return view;
}

template <class T>
std::vector<T> to_host(View1<T> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return std::vector<T>(host.data(), host.data() + host.extent(0));
}

template <class T>
double element(std::vector<T> const& x, Op op, Index ld, Index row, Index column) {
  return static_cast<double>(
      static_cast<Real<T>>(op == Op::none ? x[row * ld + column] : x[column * ld + row]));
}

/// k products and additions of terms below 1, times |alpha|, and beta C below |beta|; u = epsilon / 2.
template <class T>
double tolerance(Index k, double alpha, double beta) {
  return ((k + 2) * k * std::abs(alpha) + 4 * (std::abs(alpha) * k + std::abs(beta))) * 0.5 *
         std::numeric_limits<Real<T>>::epsilon();
}

/// The one rounding of a result to TC, where that is narrower than what sums are held in: 8 bits.
template <class TC>
double last_rounding(double want) {
  return std::is_same_v<TC, bfloat16> ? std::ldexp(std::abs(want), -8) : 0.0;
}

struct Case {
  Index m, n, k;
};
// Extents of 0 and 1; odd ones, with fewer and with more rows than hosts' oneDNN copies a transposed B for;
// squares; LoRA's skinny shapes.
inline std::vector<Case> const kCases = {{0, 3, 2},    {3, 0, 2},    {3, 2, 0},     {1, 1, 1},
                                         {5, 7, 3},    {64, 64, 64}, {65, 66, 67},  {130, 97, 8},
                                         {97, 8, 130}, {8, 130, 97}, {130, 70, 90}, {131, 150, 133}};

template <class T, class TC = T, class Product>
void check_products(Product const& product) {
  for (auto const [m, n, k] : kCases)
    for (Op const a : {Op::none, Op::transpose})
      for (Op const b : {Op::none, Op::transpose})
        for (double const beta : {0.0, 1.0, -0.5}) {
          double const alpha = 1.5;
          Index const lda = (a == Op::none ? k : m) + 3, ldb = (b == Op::none ? n : k) + 1, ldc = n + 2;
          auto const A = random_view<T>((a == Op::none ? m : k) * lda, 1);
          auto const B = random_view<T>((b == Op::none ? k : n) * ldb, 2);
          auto const C = random_view<TC>(m * ldc, 3);
          auto const before = to_host(C);
          if (beta == 0.0)
            Kokkos::deep_copy(C, TC(std::numeric_limits<float>::quiet_NaN()));  // must not be read
          product(a, b, m, n, k, Real<T>(alpha), A.data(), lda, B.data(), ldb, Real<T>(beta), C.data(), ldc);
          Kokkos::fence();
          auto const ha = to_host(A), hb = to_host(B);
          auto const hc = to_host(C);
          for (Index i = 0; i < m; ++i)
            for (Index j = 0; j < ldc; ++j) {
              double const got = hc[i * ldc + j], old = before[i * ldc + j];
              if (j >= n) {  // between the rows of C nothing may change
                ASSERT_TRUE(beta == 0.0 ? std::isnan(got) : got == old);
                continue;
              }
              double want = beta == 0.0 ? 0.0 : beta * old;
              for (Index l = 0; l < k; ++l)
                want += alpha * element(ha, a, lda, i, l) * element(hb, b, ldb, l, j);
              ASSERT_LE(std::abs(got - want), tolerance<T>(k, alpha, beta) + last_rounding<TC>(want))
                  << m << " x " << n << " x " << k << ", element " << i << ", " << j << ": got " << got
                  << ", want " << want << (a == Op::none ? ", A" : ", A^T") << (b == Op::none ? " B" : " B^T")
                  << ", beta " << beta;
            }
        }
}

struct Groups {
  std::vector<Index> offset;
  Index n, k;
};
// More groups than one call of a device's library takes.
inline std::vector<Index> const kManyOffsets = {0,  1,  1,  4,  6,  7,  9,  12, 12, 13, 15, 20,
                                                21, 22, 24, 25, 27, 29, 30, 31, 31, 33, 40};
inline std::vector<Groups> const kGroups = {{{0}, 3, 2},
                                            {{0, 0, 0}, 3, 2},
                                            {{0, 1}, 1, 1},
                                            {{0, 5, 5, 12, 13}, 7, 9},
                                            {{0, 70, 70, 201}, 65, 80},
                                            {kManyOffsets, 6, 5},
                                            {kManyOffsets, 16, 24}};

/// How far apart rows or matrices of `used` elements lie: by `gap` more, or `aligned`, at multiples of 8
/// elements. Of those a device's library takes the groups together, of others one after the other.
inline Index apart(Index used, Index gap, bool aligned) {
  return aligned ? (used + gap + 7) / 8 * 8 : used + gap;
}

template <class T, class TC = T>
void check_grouped(bool aligned) {
  Exec const exec;
  for (auto const& [offset, n, k] : kGroups)
    for (Op const op : {Op::none, Op::transpose})
      for (double const beta : {0.0, 1.0}) {
        Index const E = static_cast<Index>(offset.size()) - 1, rows = offset.back();
        Index const lda = apart(k, 2, aligned), ldb = apart(op == Op::none ? n : k, 1, aligned),
                    ldc = apart(n, 3, aligned), b_rows = op == Op::none ? k : n;
        Index const stride = apart(b_rows * ldb, 5, aligned);
        auto const A = random_view<T>(rows * lda, 6), B = random_view<T>(E * stride, 7);
        auto const C = random_view<TC>(rows * ldc, 8);
        auto const before = to_host(C);
        grouped_gemm<T>(exec, E, offset.data(), op, n, k, Real<T>(0.5), A.data(), lda, B.data(), ldb, stride,
                        Real<T>(beta), C.data(), ldc);
        exec.fence();
        auto const ha = to_host(A), hb = to_host(B);
        auto const hc = to_host(C);
        for (Index e = 0; e < E; ++e) {
          std::vector<T> const be(hb.begin() + e * stride, hb.begin() + (e + 1) * stride);
          for (Index r = offset[e]; r < offset[e + 1]; ++r)
            for (Index j = 0; j < n; ++j) {
              double want = beta * static_cast<double>(before[r * ldc + j]);
              for (Index l = 0; l < k; ++l)
                want += 0.5 * static_cast<double>(ha[r * lda + l]) * element(be, op, ldb, l, j);
              ASSERT_NEAR(static_cast<double>(hc[r * ldc + j]), want,
                          tolerance<T>(k, 0.5, beta) + last_rounding<TC>(want))
                  << "group " << e << ", row " << r;
            }
        }
      }
}

template <class T, class TC = T>
void check_grouped_transposed(bool aligned) {
  Exec const exec;
  for (auto const& [offset, n, m] : kGroups)
    for (double const beta : {0.0, 1.0}) {
      Index const E = static_cast<Index>(offset.size()) - 1, rows = offset.back();
      Index const lda = apart(m, 2, aligned), ldb = apart(n, 1, aligned), ldc = apart(n, 3, aligned),
                  stride = apart(m * ldc, 4, aligned);
      auto const A = random_view<T>(rows * lda, 9), B = random_view<T>(rows * ldb, 10);
      auto const C = random_view<TC>(E * stride, 11);
      auto const before = to_host(C);
      grouped_gemm_transposed<T>(exec, E, offset.data(), m, n, Real<T>(0.5), A.data(), lda, B.data(), ldb,
                                 Real<T>(beta), C.data(), ldc, stride);
      exec.fence();
      auto const ha = to_host(A), hb = to_host(B);
      auto const hc = to_host(C);
      for (Index e = 0; e < E; ++e)
        for (Index i = 0; i < m; ++i)
          for (Index j = 0; j < n; ++j) {
            double want = beta * static_cast<double>(before[e * stride + i * ldc + j]);
            for (Index r = offset[e]; r < offset[e + 1]; ++r)
              want += 0.5 * static_cast<double>(ha[r * lda + i]) * static_cast<double>(hb[r * ldb + j]);
            ASSERT_NEAR(static_cast<double>(hc[e * stride + i * ldc + j]), want,
                        tolerance<T>(offset[e + 1] - offset[e], 0.5, beta) + last_rounding<TC>(want))
                << "group " << e << ", element " << i << ", " << j;
          }
    }
}

}  // namespace upit::test
