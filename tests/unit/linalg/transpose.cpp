// SPDX-License-Identifier: Apache-2.0
// Owns the tests of transposed copies.
#include "upit/linalg/transpose.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace upit::test {
namespace {

template <class T>
class Transpose : public ::testing::Test {};
using Types = ::testing::Types<float, double, bfloat16>;
TYPED_TEST_SUITE(Transpose, Types);

// Below, at and beyond the blocks of 8 and tiles of 64, with rows that are longer than the matrix.
TYPED_TEST(Transpose, EveryElementAndNoOther) {
  using T = TypeParam;
  using R = Real<T>;
  for (Index const rows : {0, 1, 7, 8, 9, 64, 131})
    for (Index const columns : {0, 1, 8, 15, 64, 70}) {
      Index const lda = columns + 3, ldt = rows + 2;
      std::vector<T> a(at(rows * lda), T(-1));
      for (Index r = 0; r < rows; ++r)
        for (Index c = 0; c < columns; ++c)
          a[at(r * lda + c)] = T(static_cast<float>((r * 11 + c * 3) % 251));  // exact in 8 bits
      std::vector<R> t(at(columns * ldt), R(-1)), dense(at(columns * rows), R(-1));
      transpose_in_thread<T>(rows, columns, a.data(), lda, t.data(), ldt);
      transpose_on_host<T>(rows, columns, a.data(), lda, dense.data());
      for (Index c = 0; c < columns; ++c) {
        for (Index r = 0; r < ldt; ++r) {
          R const want = r < rows ? static_cast<R>(a[at(r * lda + c)]) : R(-1);
          ASSERT_EQ(t[at(c * ldt + r)], want) << rows << " x " << columns << " at " << r << ", " << c;
          if (r < rows) {
            ASSERT_EQ(dense[at(c * rows + r)], want);
          }
        }
      }
    }
}

}  // namespace
}  // namespace upit::test
