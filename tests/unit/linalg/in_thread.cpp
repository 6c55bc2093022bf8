// SPDX-License-Identifier: Apache-2.0
// Owns the tests of products on one host thread, which builds for devices do not have.
#include <gtest/gtest.h>

#include <vector>

#include "products.hpp"
#include "upit/linalg/gemm.hpp"

namespace upit::test {
namespace {

template <class T>
class GemmInThread : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GemmInThread, Types);

TYPED_TEST(GemmInThread, AgainstPlainLoops) {
  using T = TypeParam;
  check_products<T>([](auto... arguments) { gemm_in_thread<T>(arguments...); });
}

template <class T>
void products_in_parallel(Index count, Index d, View1<T> const& A, View1<T> const& B, View1<T> const& C) {
  T const* const a = A.data();
  T const* const b = B.data();
  T* const c = C.data();
  Kokkos::parallel_for("upit::test_gemm_in_thread", Kokkos::RangePolicy<HostExec>(0, count),
                       [=](int const i) {
                         gemm_in_thread<T>(Op::none, Op::transpose, d, d, d, T(1), a + i * d * d, d,
                                           b + i * d * d, d, T(0), c + i * d * d, d);
                       });
}

TYPED_TEST(GemmInThread, InsideAParallelRegion) {
  using T = TypeParam;
  Exec const exec;
  Index const count = 40, d = 33;
  auto const A = random_view<T>(count * d * d, 4), B = random_view<T>(count * d * d, 5);
  View1<T> const C("C", count * d * d), D("D", count * d * d);
  products_in_parallel<T>(count, d, A, B, C);
  for (Index i = 0; i < count; ++i)
    gemm<T>(exec, Op::none, Op::transpose, d, d, d, T(1), A.data() + i * d * d, d, B.data() + i * d * d, d,
            T(0), D.data() + i * d * d, d);
  exec.fence();
  auto const c = to_host(C), e = to_host(D);
  for (std::size_t i = 0; i < c.size(); ++i) ASSERT_NEAR(c[i], e[i], 2 * tolerance<T>(d, 1, 0));
}

}  // namespace
}  // namespace upit::test
