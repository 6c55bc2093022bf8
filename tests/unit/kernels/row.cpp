// SPDX-License-Identifier: Apache-2.0
// Owns the tests of sums, maxima and loops over a row: in the form of this build's kernels and in teams.
#include "upit/kernels/row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "unit/kernels/views.hpp"

namespace upit::test {
namespace {

// Around a vector, the lanes of a sum of one expert's rank, those of a longer one, and a block of a sum.
std::vector<Index> const kLengths = {0, 1, 15, 16, 17, 63, 64, 65, 4095, 4097};

/// Of one row: its sum, its maximum, and every element once.
template <class R, class AnyRow>
struct Walk {
  Index n;
  R const *x, *next;
  R *sum, *most, *y;

  KOKKOS_FUNCTION void operator()(AnyRow const& row) const {
    R const* const from = x;
    R *const to = y, *const total = sum, *const largest = most;
    R const s = kernels::row_sum<R>(row, n, [=](Index const i) { return from[i]; });
    R const m = kernels::row_max<R>(row, n, [=](Index const i) { return from[i]; });
    kernels::row_once(row, [=] { *total = s, *largest = m; });
    kernels::row_for_fetching(
        row, n, [=](Index const i) { to[i] += from[i]; }, x, next);
  }
};

template <class R>
struct Found {
  double sum, most;
  Values y;  // twice x, and beyond the row as it was
};

/// `teams`: a team takes the row, also on hosts.
template <class R>
Found<R> walk(Values const& values, bool teams) {
  Index const n = std::ssize(values), beyond = 8;
  Values started = values;
  started.resize(at(n + beyond), -1.0);
  auto const x = make1<R>(values), next = make1<R>(values), y = make1<R>(started), out = make1<R>(Values(2));
  Exec const exec;
  auto const run = [&]<class AnyRow>(auto const& policy, AnyRow const*) {
    Walk<R, AnyRow> const body{n, x.data(), next.data(), out.data(), out.data() + 1, y.data()};
    Kokkos::parallel_for("upit::test_row", policy, body);
  };
  if (teams) {
    run(kernels::team_policy(exec, 1, n), static_cast<kernels::TeamRow const*>(nullptr));
  } else {
    run(kernels::row_policy(exec, 1, n), static_cast<kernels::Row const*>(nullptr));
  }
  exec.fence();
  Values const both = to_host(out);
  return {both[0], both[1], to_host(y)};
}

/// Additions that the error of an element's way into the sum can count: of its lane, of the fold, and of the
/// blocks. Teams add in an order that is not ours: no way is longer than all elements.
template <class R>
double additions(Index n, bool teams) {
  if (teams || !kernels::kHostRows) return static_cast<double>(n);
  auto const ways = [](Index length, Index bytes) {
    Index const lanes = bytes / static_cast<Index>(sizeof(R));
    return static_cast<double>((length + lanes - 1) / lanes) + std::log2(static_cast<double>(lanes));
  };
  if (n <= 16) return ways(n, 32);
  constexpr Index kBlock = 4096;
  return ways(std::min(n, kBlock), kernels::kLaneBytes) + static_cast<double>((n + kBlock - 1) / kBlock);
}

template <class T>
class RowTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RowTest, Types);

TYPED_TEST(RowTest, SumsAndVisitsEveryElementOnce) {
  using R = TypeParam;
  for (Index const n : kLengths)
    for (bool const teams : {false, true}) {
      Values const x = random_values(n, 1);
      auto const found = walk<R>(x, teams);
      double sum = 0.0, size = 0.0;
      for (double const v : x) sum += v, size += std::abs(v);
      // The reference's own n additions count where it is no wider than R.
      double const plain = std::is_same_v<R, double> ? static_cast<double>(n) : 0.0;
      EXPECT_NEAR(found.sum, sum, (additions<R>(n, teams) + plain) * rounding<R>() * size) << n;
      for (Index i = 0; i < std::ssize(found.y); ++i)
        ASSERT_EQ(found.y[at(i)], i < n ? 2.0 * x[at(i)] : -1.0) << i << " of " << n;
    }
}

TYPED_TEST(RowTest, MaximumIsFoundWhereverItIs) {
  using R = TypeParam;
  for (Index const n : kLengths)
    for (bool const teams : {false, true}) {
      if (n == 0) {
        EXPECT_EQ(walk<R>({}, teams).most, static_cast<double>(std::numeric_limits<R>::lowest()));
        continue;
      }
      Values x = random_values(n, 2);
      // Below zero, so that an element that is not there would win; exact in float.
      for (double& v : x) v = static_cast<float>(-3.0 - v);
      for (Index const place : {Index{0}, n / 2, n - 1}) {
        Values one = x;
        one[at(place)] = -0.5;
        EXPECT_EQ(walk<R>(one, teams).most, -0.5) << place << " of " << n;
        if (n > 1) {  // a NaN is passed over
          one[at((place + 1) % n)] = std::numeric_limits<double>::quiet_NaN();
          EXPECT_EQ(walk<R>(one, teams).most, -0.5) << place << " of " << n << ", beside a NaN";
        }
      }
      EXPECT_EQ(walk<R>(x, teams).most, *std::max_element(x.begin(), x.end())) << n;
    }
}

}  // namespace
}  // namespace upit::test
