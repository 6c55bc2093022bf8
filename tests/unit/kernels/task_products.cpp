// SPDX-License-Identifier: Apache-2.0
// Tests the inner products of task vectors against plain double loops.
#include "upit/kernels/task_products.hpp"

#include "unit/kernels/slots_support.hpp"

namespace upit::slots_test {
namespace {

std::vector<double> products(std::vector<float> const& base, std::vector<float> const& pool, Index experts,
                             Index other, Index count, Index rows, Index columns) {
  View2<double> const out("out", rows, count);
  auto const in = to_view(pool, experts, static_cast<Index>(pool.size()) / experts);
  kernels::task_products(Exec(), to_view(base), in, other, columns, out);
  return to_vector(out);
}

TEST(TaskProducts, AgainstPlainLoops) {
  for (Index const columns : {0, 1, 7, 8, 9, 37, 1030}) {
    for (Index const rows : {0, 1, 5}) {
      for (Index const experts : {1, 3, 4, 9}) {
        for (bool const based : {false, true}) {
          Index const n = rows * columns, stride = n + 3;  // the pool's rows may be longer
          auto const base = normal<float>(based ? n : 0, 1), pool = normal<float>(experts * stride, 2);
          Index const other = experts - 1;
          std::vector<double> want, bound;
          for (Index r = 0; r < rows; ++r) {
            for (Index i = 0; i < experts; ++i) {
              double sum = 0.0, size = 0.0;
              for (Index k = r * columns; k < (r + 1) * columns; ++k) {
                auto const of = [&](Index e) {
                  double const origin = based ? base[static_cast<std::size_t>(k)] : 0.0;
                  return static_cast<double>(pool[static_cast<std::size_t>(e * stride + k)]) - origin;
                };
                sum += of(i) * of(other);
                size += std::abs(of(i) * of(other));
              }
              want.push_back(sum);
              // Either side rounds once a term and once a product.
              bound.push_back(2.0 * static_cast<double>(columns + 1) * 0x1p-53 * size);
            }
          }
          auto const found = products(base, pool, experts, other, experts, rows, columns);
          ASSERT_EQ(found.size(), want.size());
          for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(found[i], want[i], bound[i]);
        }
      }
    }
  }
}

TEST(TaskProducts, BitsDependOnTheRowAndTheTwoExpertsAlone) {
  Index const rows = 6, columns = 21, n = rows * columns, experts = 7;
  auto const base = normal<float>(n, 1), pool = normal<float>(experts * n, 2);
  auto const all = products(base, pool, experts, 5, experts, rows, columns);
  for (Index const count : {1, 4, 6}) {
    auto const some = products(base, pool, experts, 5, count, rows, columns);
    for (Index r = 0; r < rows; ++r) {
      for (Index i = 0; i < count; ++i) {
        EXPECT_EQ(some[static_cast<std::size_t>(r * count + i)],
                  all[static_cast<std::size_t>(r * experts + i)]);
      }
    }
  }
  for (Index i = 0; i < experts; ++i) {  // <x, y> = <y, x>
    auto const turned = products(base, pool, experts, i, experts, rows, columns);
    for (Index r = 0; r < rows; ++r) {
      EXPECT_EQ(turned[static_cast<std::size_t>(r * experts + 5)],
                all[static_cast<std::size_t>(r * experts + i)]);
    }
  }
  auto const cut = [&](std::vector<float> const& x, Index count) {  // rows 2 to 4 of each
    std::vector<float> part;
    for (Index e = 0; e < count; ++e) {
      part.insert(part.end(), x.begin() + e * n + 2 * columns, x.begin() + e * n + 5 * columns);
    }
    return part;
  };
  auto const middle = products(cut(base, 1), cut(pool, experts), experts, 5, experts, 3, columns);
  for (std::size_t i = 0; i < middle.size(); ++i) {
    EXPECT_EQ(middle[i], all[i + static_cast<std::size_t>(2 * experts)]);
  }
}

TEST(TaskProducts, RefusesShapesThatDoNotFit) {
  View1<float> const base("b", 6);
  View2<float> const pool("p", 2, 6);
  View2<double> const out("o", 2, 2);
  EXPECT_THROW(kernels::task_products(Exec(), base, pool, 0, 2, out), std::logic_error);
  EXPECT_THROW(kernels::task_products(Exec(), View1<float>(), pool, 0, 4, out), std::logic_error);
  EXPECT_THROW(kernels::task_products(Exec(), base, pool, 2, 3, out), std::logic_error);
  EXPECT_THROW(kernels::task_products(Exec(), base, pool, 0, 3, View2<double>("o", 2, 3)), std::logic_error);
}

}  // namespace
}  // namespace upit::slots_test
