// SPDX-License-Identifier: Apache-2.0
// Owns the check that what the libraries keep for products is what `gemm_kept_bytes` says. Their buffers are
// the only ones that come from aligned operator new, which this file replaces to see them.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "products.hpp"

namespace upit::test {
namespace {
std::atomic<std::size_t> largest_allocation = 0;  // threads of the libraries allocate too
}
}  // namespace upit::test

void* operator new(std::size_t size, std::align_val_t alignment) {
  auto const a = static_cast<std::size_t>(alignment);
  std::size_t largest = upit::test::largest_allocation;
  while (size > largest && !upit::test::largest_allocation.compare_exchange_weak(largest, size)) {
  }
  void* const out = std::aligned_alloc(a, (size + a - 1) / a * a);
  if (out == nullptr) throw std::bad_alloc();
  return out;
}
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace upit::test {
namespace {

/// Bytes of the largest buffer that a product with B^T takes.
template <class T>
Index taken(Index m, Index n, Index k) {
  View1<T> const A("A", m * k), B("B", n * k), C("C", m * n);
  largest_allocation = 0;
  gemm<T>(Exec(), Op::none, Op::transpose, m, n, k, 1, A.data(), k, B.data(), k, 0, C.data(), n);
  Exec().fence();
  return static_cast<Index>(largest_allocation);
}

/// Libraries keep their buffers for the process, and take memory only for more than ever before: for more
/// than the largest product here, since the other tests of this program multiply far smaller ones.
template <class T>
void expect_kept(Index m, Index n, Index k) {
  static Index most = 0;
  Index const kept = gemm_kept_bytes<T>(Op::none, Op::transpose, m, n, k);
  if (kept > most || kept == 0) {
    EXPECT_EQ(taken<T>(m, n, k), kept) << m << " " << n << " " << k;
  }
  most = std::max(most, kept);
  EXPECT_LT(taken<T>(m, n, k), std::max<Index>(kept, 4096)) << "taken anew";
}

TEST(Kept, IsWhatGemmKeeps) {
  expect_kept<float>(64, 2000, 1800);
  expect_kept<float>(64, 3000, 1800);
  expect_kept<double>(64, 2000, 1800);
  EXPECT_EQ(gemm_kept_bytes<float>(Op::none, Op::none, 64, 3000, 1800), 0);
  EXPECT_EQ(gemm_kept_bytes<float>(Op::none, Op::transpose, 1, 3000, 1800), 0);
  EXPECT_EQ(gemm_kept_bytes<float>(Op::none, Op::transpose, 64, 0, 1800), 0);
}

TEST(Kept, IsWhatGemmKeepsForBf16) {
  if (bf16_products() == Bf16Products::none) GTEST_SKIP() << "no products of bfloat16 here";
  expect_kept<bfloat16>(64, 2000, 1801);
  expect_kept<bfloat16>(300, 2500, 1801);
}

}  // namespace
}  // namespace upit::test
