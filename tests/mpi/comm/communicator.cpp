// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the communicator: collectives, splitting of messages, agreement on errors.
#include "upit/comm/collectives.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "upit/comm/message_limit.hpp"
#include "upit/core/random.hpp"

namespace upit {
namespace {

/// Lowers the limit for one test.
class Limit {
 public:
  explicit Limit(Index elements) : before_(message_limit()) { set_message_limit(elements); }
  ~Limit() { set_message_limit(before_); }

 private:
  Index before_;
};

/// A view of n values that depend on rank and index and are no round numbers.
template <class T>
View1<T> values_of(int rank, Index n) {
  View1<T> values("values", n);
  auto const host = Kokkos::create_mirror_view(values);
  RandomKey const key = random_key(3, "comm", rank);
  for (Index i = 0; i < n; ++i) host(i) = static_cast<T>(random_normal(key, static_cast<std::uint64_t>(i)));
  Kokkos::deep_copy(values, host);
  return values;
}

template <class T>
std::vector<T> to_vector(View1<T> const& values) {
  auto const host = Kokkos::create_mirror_view(values);
  Kokkos::deep_copy(host, values);
  return {host.data(), host.data() + host.extent(0)};
}

/// Free, not in a test's body: CUDA takes no lambda in a private member.
void fill_with_multiples(Exec const& exec, View1<double> const& values, double factor) {
  Kokkos::parallel_for(
      "upit::test::fill", Kokkos::RangePolicy<Exec>(exec, 0, values.extent(0)),
      KOKKOS_LAMBDA(Index i) { values(i) = factor * static_cast<double>(i); });
}

template <class T>
void check_view_sum(Communicator const& comm, Index n) {
  Exec const exec;
  auto const values = values_of<T>(comm.rank(), n);
  sum(comm, exec, values);
  auto const sums = to_vector(values);
  std::vector<double> exact(static_cast<std::size_t>(n), 0.0);
  std::vector<double> size(static_cast<std::size_t>(n), 0.0);
  for (int rank = 0; rank < comm.size(); ++rank) {
    auto const part = to_vector(values_of<T>(rank, n));
    for (std::size_t i = 0; i < part.size(); ++i) {
      exact[i] += static_cast<double>(part[i]);
      size[i] += std::abs(static_cast<double>(part[i]));
    }
  }
  // size - 1 additions, each rounded by at most half an epsilon of the partial sum; as much for the
  // reference.
  double const tol = comm.size() * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(sums[i]), exact[i], tol * size[i]) << "element " << i << " of " << n;
  }
}

TEST(Communicator, SumsViewsOfAnyLength) {
  auto const comm = Communicator::world();
  for (Index const n : {0, 1, 7, 64, 1000}) {
    check_view_sum<float>(comm, n);
    check_view_sum<double>(comm, n);
  }
}

TEST(Communicator, SplitsMessagesAboveTheLimit) {
  auto const comm = Communicator::world();
  for (Index const limit : {1, 3, 7, 100}) {
    Limit const lowered(limit);
    for (Index const n : {0, 1, 7, 20, 100, 101}) {
      check_view_sum<float>(comm, n);
      check_view_sum<double>(comm, n);
    }
    std::string text = comm.root() ? std::string(250, 'x') + "end" : "";
    comm.broadcast(text);
    EXPECT_EQ(text, std::string(250, 'x') + "end");
    std::vector<Index> const mine(static_cast<std::size_t>(5 * comm.rank() + 1), comm.rank());
    auto const all = comm.gather_all(std::span<Index const>(mine));
    std::vector<Index> expected;
    for (int r = 0; r < comm.size(); ++r)
      expected.insert(expected.end(), static_cast<std::size_t>(5 * r + 1), r);
    EXPECT_EQ(all, expected);
  }
}

TEST(Communicator, RefusesALimitThatNoCountCanHold) {
  EXPECT_THROW(set_message_limit(0), Error);
  EXPECT_THROW(set_message_limit(Index{1} << 31), Error);
}

TEST(Communicator, WaitsForTheKernelsThatWriteWhatItSums) {
  auto const comm = Communicator::world();
  Exec const exec;
  Index const n = 100'000;
  View1<double> const values("values", n);
  double const mine = comm.rank() + 1.0;
  fill_with_multiples(exec, values, mine);
  sum(comm, exec, values);
  double const ranks = comm.size() * (comm.size() + 1) / 2.0;
  auto const sums = to_vector(values);
  for (Index i = 0; i < n; ++i) ASSERT_EQ(sums[static_cast<std::size_t>(i)], ranks * static_cast<double>(i));
}

TEST(Communicator, SumsToTheSameBitsEveryTimeAndOnEveryRank) {
  auto const comm = Communicator::world();
  Exec const exec;
  std::vector<std::string> bytes;
  for (int repeat = 0; repeat < 5; ++repeat) {
    auto const values = values_of<float>(comm.rank(), 5000);
    sum(comm, exec, values);
    auto const sums = to_vector(values);
    bytes.emplace_back(reinterpret_cast<char const*>(sums.data()), sums.size() * sizeof(float));
    EXPECT_EQ(bytes.back(), bytes.front());
    EXPECT_TRUE(comm.same(bytes.back()));
  }
}

TEST(Communicator, ReducesNumbers) {
  auto const comm = Communicator::world();
  int const n = comm.size();
  EXPECT_EQ(comm.sum(0.5 + comm.rank()), 0.5 * n + n * (n - 1) / 2);
  EXPECT_EQ(comm.sum(Index{comm.rank()} << 40), (Index{n} * (n - 1) / 2) << 40);
  EXPECT_EQ(comm.max(Index{comm.rank()}), n - 1);
  EXPECT_EQ(comm.min(Index{comm.rank()} - 5), -5);
  EXPECT_EQ(comm.max(-1.0 - comm.rank()), -1.0);
  EXPECT_TRUE(comm.all(true));
  EXPECT_EQ(comm.all(comm.rank() != n - 1), false);
  EXPECT_FALSE(comm.any(false));
  EXPECT_TRUE(comm.any(comm.rank() == n - 1));
  std::vector<double> doubles = {1.0 * comm.rank(), 1.0};
  comm.sum(std::span<double>(doubles));
  EXPECT_EQ(doubles, (std::vector<double>{n * (n - 1) / 2.0, 1.0 * n}));
  std::vector<Index> indices = {comm.rank(), 1};
  comm.sum(std::span<Index>(indices));
  EXPECT_EQ(indices, (std::vector<Index>{Index{n} * (n - 1) / 2, n}));
}

TEST(Communicator, KeepsANanInTheMaximumWhicheverRankHasIt) {
  auto const comm = Communicator::world();
  for (int bad = 0; bad < comm.size(); ++bad) {
    EXPECT_TRUE(std::isnan(comm.max(comm.rank() == bad ? std::nan("") : 1e300)));
  }
  EXPECT_EQ(comm.max(-std::numeric_limits<double>::infinity()), -std::numeric_limits<double>::infinity());
}

TEST(Communicator, BroadcastsFromAnyRank) {
  auto const comm = Communicator::world();
  Exec const exec;
  for (int root = 0; root < comm.size(); ++root) {
    bool const here = comm.rank() == root;
    std::string text = here ? std::string("a\0b", 3) : "something longer that was there before";
    comm.broadcast(text, root);
    EXPECT_EQ(text, std::string("a\0b", 3));
    std::vector<double> doubles(3, here ? 0.1 : 0.0);
    comm.broadcast(std::span<double>(doubles), root);
    EXPECT_EQ(doubles, std::vector<double>(3, 0.1));
    std::vector<Index> indices(3, here ? Index{1} << 50 : 0);
    comm.broadcast(std::span<Index>(indices), root);
    EXPECT_EQ(indices, std::vector<Index>(3, Index{1} << 50));
    auto const floats = values_of<float>(comm.rank(), 33);
    broadcast(comm, exec, floats, root);
    EXPECT_EQ(to_vector(floats), to_vector(values_of<float>(root, 33)));
    auto const wide = values_of<double>(comm.rank(), 33);
    broadcast(comm, exec, wide, root);
    EXPECT_EQ(to_vector(wide), to_vector(values_of<double>(root, 33)));
  }
}

TEST(Communicator, GathersUnequalLengthsInRankOrder) {
  auto const comm = Communicator::world();
  // Rank r gives r values: rank 0 none.
  std::vector<double> mine;
  for (int i = 0; i < comm.rank(); ++i) mine.push_back(comm.rank() + 0.25 * i);
  std::vector<double> expected;
  std::vector<std::string> texts;
  for (int r = 0; r < comm.size(); ++r) {
    for (int i = 0; i < r; ++i) expected.push_back(r + 0.25 * i);
    texts.emplace_back(static_cast<std::size_t>(3 * r), static_cast<char>('a' + r));
  }
  EXPECT_EQ(comm.gather_all(std::span<double const>(mine)), expected);
  EXPECT_EQ(comm.gather_all(texts[static_cast<std::size_t>(comm.rank())]), texts);
  EXPECT_EQ(comm.gather_all(std::span<Index const>()), std::vector<Index>{});
}

TEST(Communicator, SameComparesBytes) {
  auto const comm = Communicator::world();
  EXPECT_TRUE(comm.same("deck"));
  EXPECT_TRUE(comm.same(""));
  bool const last = comm.rank() == comm.size() - 1;
  bool const alone = comm.size() == 1;
  EXPECT_EQ(comm.same(last ? "deck " : "deck"), alone);
  EXPECT_EQ(comm.same(last ? "" : "deck"), alone);
  EXPECT_EQ(comm.same(last ? std::string("a\0b", 3) : std::string("a\0c", 3)), alone);
}

TEST(Communicator, SplitsByColourAndByNode) {
  auto const comm = Communicator::world();
  auto const half = comm.split(comm.rank() % 2);
  EXPECT_EQ(half.size(), (comm.size() + 1 - comm.rank() % 2) / 2);
  EXPECT_EQ(half.rank(), comm.rank() / 2);
  double const sum = half.sum(static_cast<double>(comm.rank()));
  double expected = 0.0;
  for (int r = comm.rank() % 2; r < comm.size(); r += 2) expected += r;
  EXPECT_EQ(sum, expected);
  EXPECT_EQ(comm.split_by_node().size(), comm.size());  // the tests run on one machine
  EXPECT_THROW((void)comm.split(-1), std::logic_error);
}

TEST(Communicator, CanBeMoved) {
  auto a = Communicator::world();
  int const size = a.size();
  Communicator b = std::move(a);
  EXPECT_EQ(b.sum(Index{1}), size);
  auto c = b.split(0);
  c = std::move(b);
  EXPECT_EQ(c.sum(Index{1}), size);
}

TEST(Communicator, TurnsAnErrorOfMpiIntoASentence) {
  auto const comm = Communicator::world();
  std::vector<double> values(1, 0.0);
  try {
    comm.broadcast(std::span<double>(values), comm.size());  // no such rank
    FAIL() << "nothing was thrown";
  } catch (Error const& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("MPI_Bcast failed: MPI_ERR_ROOT"));
  }
}

/// The text of the AgreedError that `work` ends in on this rank; "" if it throws none.
std::string agreed_text(std::function<void()> const& work) {
  try {
    work();
  } catch (AgreedError const& e) {
    return e.what();
  }
  return "";
}

TEST(Agree, PassesWhenNobodyFails) {
  auto const comm = Communicator::world();
  int runs = 0;
  comm.agree([&] { ++runs; });
  EXPECT_EQ(runs, 1);
  comm.agree_on_root([&] { ++runs; });
  EXPECT_EQ(runs, comm.root() ? 2 : 1);
  comm.agree(std::string());
}

TEST(Agree, TellsEveryRankOfTheFailureOfOne) {
  auto const comm = Communicator::world();
  for (int bad = 0; bad < comm.size(); ++bad) {
    std::string const text = "data/x.jsonl:7: found \"}\" on " + std::to_string(bad);
    EXPECT_EQ(agreed_text([&] { comm.agree([&] { require(comm.rank() != bad, text); }); }), text);
    EXPECT_EQ(agreed_text([&] { comm.agree(comm.rank() == bad ? text : ""); }), text);
  }
  EXPECT_EQ(comm.sum(Index{1}), comm.size());  // and the ranks are still in step
}

TEST(Agree, TakesTheLowestOfSeveralFailures) {
  auto const comm = Communicator::world();
  int const lowest = comm.size() > 2 ? 1 : 0;
  auto const text = agreed_text([&] {
    comm.agree([&] {
      if (comm.rank() >= lowest) fail("rank " + std::to_string(comm.rank()));
    });
  });
  EXPECT_EQ(text, "rank " + std::to_string(lowest));
}

TEST(Agree, RunsTheRootsWorkOnceAndSharesItsFailure) {
  auto const comm = Communicator::world();
  EXPECT_EQ(agreed_text([&] { comm.agree_on_root([&] { fail("no such file"); }); }), "no such file");
}

TEST(Agree, CatchesWhatLibrariesThrowAndLeavesAStopAlone) {
  auto const comm = Communicator::world();
  bool const last = comm.rank() == comm.size() - 1;
  EXPECT_EQ(agreed_text([&] {
              comm.agree([&] {
                if (last) throw std::bad_alloc();
              });
            }),
            "out of memory");
  EXPECT_EQ(agreed_text([&] {
              comm.agree([&] {
                if (last) throw std::out_of_range("");
              });
            }),
            "unknown error");
  EXPECT_THROW(comm.agree([] { throw Interrupted("time"); }), Interrupted);
}

}  // namespace
}  // namespace upit
