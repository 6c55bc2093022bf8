// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the embedding and row-copy kernels.
#include "upit/kernels/embedding.hpp"

#include <numeric>
#include <stdexcept>

#include "unit/kernels/views.hpp"
#include "upit/kernels/gather.hpp"

namespace upit::test {
namespace {

std::vector<int> some_tokens(Index n, Index vocabulary) {
  RandomKey const key = random_key(7, "tokens");
  std::vector<int> t;
  for (Index i = 0; i < n; ++i) t.push_back(static_cast<int>(random_below(key, i, vocabulary)));
  return t;
}

template <class T>
class Embedding : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Embedding, Types);

TYPED_TEST(Embedding, ForwardCopiesRows) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [N, C] : {Shape{0, 4}, Shape{1, 1}, Shape{7, 5}, Shape{33, 130}}) {
    Index const V = 11;
    auto const token = some_tokens(N, V);
    auto const table = random_values(V * C, 1);
    View2<T> const out("out", N, C);
    kernels::embedding_forward<T>(exec, make1<int>(token), make2<T>(V, C, table), out);
    exec.fence();
    Values want;
    for (int const t : token) want.insert(want.end(), table.begin() + t * C, table.begin() + (t + 1) * C);
    EXPECT_EQ(to_host(out), want);
  }
}

TYPED_TEST(Embedding, BackwardAddsEveryOccurrence) {
  using T = TypeParam;
  Exec const exec;
  // 130 columns: several blocks of whole cache lines and a rest, on any number of threads.
  for (auto const [N, C] : {Shape{0, 4}, Shape{1, 1}, Shape{7, 5}, Shape{70, 130}}) {
    Index const V = 5;
    auto const token = some_tokens(N, V);
    auto const dout = random_values(N * C, 2);
    auto const start = random_values(V * C, 3);
    auto const dtable = make2<T>(V, C, start);
    kernels::embedding_backward<T>(exec, make1<int>(token), make2<T>(N, C, dout), dtable);
    exec.fence();
    Values want = start;
    for (Index n = 0; n < N; ++n)
      for (Index c = 0; c < C; ++c) want[token[n] * C + c] += dout[n * C + c];
    // At most N additions, of partial sums no larger than 2 (N + 1).
    expect_close(to_host(dtable), want, 0.0, N * rounding<T>() * 2.0 * (N + 1));
  }
}

TYPED_TEST(Embedding, GatherAndScatterRows) {
  using T = TypeParam;
  Exec const exec;
  for (auto const [M, C] : {Shape{0, 3}, Shape{1, 1}, Shape{6, 7}, Shape{20, 65}}) {
    Index const N = 2 * M + 1;
    auto const x = random_values(N * C, 4);
    std::vector<int> row(M);
    for (Index m = 0; m < M; ++m) row[m] = static_cast<int>((m * 2 + 3) % N);  // distinct: N is odd
    View2<T> const y("y", M, C);
    kernels::gather_rows<T>(exec, make2<T>(N, C, x), make1<int>(row), y);
    exec.fence();
    Values want;
    for (int const r : row) want.insert(want.end(), x.begin() + r * C, x.begin() + (r + 1) * C);
    EXPECT_EQ(to_host(y), want);

    auto const back = make2<T>(N, C, Values(N * C, 9.0));
    kernels::scatter_rows<T>(exec, y, make1<int>(row), back);
    exec.fence();
    Values scattered(N * C, 9.0);
    for (int const r : row) std::copy_n(x.begin() + r * C, C, scattered.begin() + r * C);
    EXPECT_EQ(to_host(back), scattered);
  }
}

TYPED_TEST(Embedding, WrongShapesThrow) {
  using T = TypeParam;
  Exec const exec;
  View2<T> const table("table", 5, 4), out("out", 3, 4), narrow("narrow", 3, 3);
  View1<int> const token("token", 3);
  EXPECT_THROW(kernels::embedding_forward<T>(exec, token, table, narrow), std::logic_error);
  EXPECT_THROW(kernels::embedding_backward<T>(exec, token, narrow, table), std::logic_error);
  EXPECT_THROW(kernels::gather_rows<T>(exec, table, token, narrow), std::logic_error);
  EXPECT_NO_THROW(kernels::embedding_forward<T>(exec, token, table, out));
}

}  // namespace
}  // namespace upit::test
