// SPDX-License-Identifier: Apache-2.0
// Owns the tests of how the token exchange is used: operations under way, paths, memory, statistics, errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <mpi.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "exchange_support.hpp"
#include "unit/comm/counted_memory.hpp"
#include "upit/comm/rank_grid.hpp"
#include "upit/comm/token_exchange.hpp"

namespace {

using upit::test::calls;

int begin_call(int& kind) {
  ++kind;
  return calls.fail_at > 0 && --calls.fail_at == 0 ? MPI_ERR_OTHER : MPI_SUCCESS;
}

}  // namespace

// MPI lets a program put functions in front of its own, which stay reachable as PMPI_.
int MPI_Ialltoallv(void const* in, int const* send, int const* send_at, MPI_Datatype row, void* out,
                   int const* receive, int const* receive_at, MPI_Datatype out_row, MPI_Comm comm,
                   MPI_Request* request) {
  int size = 0;
  PMPI_Comm_size(comm, &size);
  for (int q = 0; q < size; ++q) calls.most = std::max({calls.most, send[q], receive[q]});
  calls.in = in;
  if (int const code = begin_call(calls.collective); code != MPI_SUCCESS) return code;
  return PMPI_Ialltoallv(in, send, send_at, row, out, receive, receive_at, out_row, comm, request);
}
int MPI_Isend(void const* in, int n, MPI_Datatype row, int to, int tag, MPI_Comm comm, MPI_Request* request) {
  calls.most = std::max(calls.most, n);
  if (int const code = begin_call(calls.sends); code != MPI_SUCCESS) return code;
  return PMPI_Isend(in, n, row, to, tag, comm, request);
}

namespace upit {
namespace {

using namespace test;

std::vector<std::string> kokkos_allocations;
void note_allocation(Kokkos_Profiling_SpaceHandle, char const* label, void const*, std::uint64_t) {
  kokkos_allocations.emplace_back(label);
}

/// Counts what is allocated while it lives.
class Listener {
 public:
  Listener() {
    kokkos_allocations.clear();
    Kokkos::Tools::Experimental::set_allocate_data_callback(note_allocation);
    before_ = test::allocations;
  }
  ~Listener() { Kokkos::Tools::Experimental::set_allocate_data_callback(nullptr); }
  Listener(Listener const&) = delete;
  Listener& operator=(Listener const&) = delete;
  long heard() const { return test::allocations - before_; }

 private:
  long before_ = 0;
};

/// Ready for a step of one piece: every rank sends two rows to each of E experts.
struct Ready {
  Ready(Communicator const& group, Index E, Index chunks, ExchangePath path)
      : shape{expert_ranges(E, group.size()), 2 * E, static_cast<double>(E), chunks},
        exchange(std::in_place, group, shape, 4, path),
        plan(shape, group.rank()),
        piece(plan.empty_piece()),
        second(plan.empty_piece()),
        slots("slots", 2 * E, 4),
        beside("beside", 2 * E * group.size(), 4),
        arrived("arrived", 2 * E * group.size(), 4) {
    for (Index e = 0; e <= E; ++e) offset.push_back(2 * e);
    Kokkos::deep_copy(slots, group.rank() + 1.0);
    Kokkos::deep_copy(arrived, -1.0);
  }
  ExchangeShape shape;
  std::optional<TokenExchange<double>> exchange;
  ExchangePlan plan;
  ExchangePlan::Piece piece, second;
  std::vector<Index> offset;
  View2<double> slots, beside, arrived;
  Exec exec;
};

/// All arrived rows of `r` carry their sources' numbers.
void check_arrived(Ready const& r) {
  auto const arrived = to_vector(r.arrived);
  for (Index s = 0; s < r.shape.ranks(); ++s) {
    for (Index m = 0; m < r.piece.receive_count[at(s)]; ++m) {
      EXPECT_EQ(arrived[at((r.piece.receive_offset[at(s)] + m) * 4)], static_cast<double>(s) + 1.0);
    }
  }
  for (Index m = r.piece.rows; m < static_cast<Index>(r.arrived.extent(0)); ++m)
    EXPECT_EQ(arrived[at(m * 4)], -1.0);
}

TEST(TokenExchange, TakesThePathItIsTold) {
  auto const world = Communicator::world();
  for (auto const path : {ExchangePath::automatic, ExchangePath::staged, ExchangePath::pairwise}) {
    Ready r(world, 4, 1, path);
    r.exchange->count(r.offset.data(), r.plan);
    r.plan.piece(0, r.piece);
    calls = {};
    r.exchange->send(r.exec, r.piece, r.slots, r.arrived).wait();
    if (path == ExchangePath::pairwise) {
      EXPECT_EQ(calls.collective, 0);
      EXPECT_EQ(calls.sends, world.size());
    } else if (path == ExchangePath::staged) {
      EXPECT_EQ(calls.collective, 1);
      EXPECT_NE(calls.in, r.slots.data());
    } else if (Kokkos::SpaceAccessibility<Kokkos::HostSpace, Memory>::accessible) {
      EXPECT_EQ(calls.collective, 1);
      EXPECT_EQ(calls.in, r.slots.data());
    }
    check_arrived(r);
  }
}

TEST(TokenExchange, TurnsAnErrorOfMpiIntoASentenceAndWaitsForWhatWasBegun) {
  auto const world = Communicator::world();
  Limit const limit(4);  // one row a call: two calls or more
  for (auto const path : {ExchangePath::staged, ExchangePath::pairwise}) {
    Ready r(world, 4, 1, path);
    r.exchange->count(r.offset.data(), r.plan);
    r.plan.piece(0, r.piece);
    calls = {};
    calls.fail_at = path == ExchangePath::staged ? 2 : 1;
    try {
      r.exchange->send(r.exec, r.piece, r.slots, r.arrived).wait();
      FAIL() << "nothing was thrown";
    } catch (Error const& e) {
      EXPECT_THAT(e.what(),
                  testing::StartsWith(path == ExchangePath::staged ? "MPI_Ialltoallv" : "MPI_Isend"));
      EXPECT_THAT(e.what(), testing::HasSubstr(" failed: MPI_ERR_OTHER"));
    }
    world.barrier();
    // No place is lost.
    auto one = r.exchange->send(r.exec, r.piece, r.slots, r.arrived);
    auto const two = r.exchange->send(r.exec, r.piece, r.slots, r.beside);
    one.wait();
    check_arrived(r);
  }
}

TEST(TokenExchange, AllocatesNothingInAStep) {
  auto const world = Communicator::world();
  for (auto const path : {ExchangePath::automatic, ExchangePath::staged, ExchangePath::pairwise}) {
    Limit const limit(8);
    Ready r(world, 6, 2, path);
    {
      Listener const listener;
      r.exchange->count(r.offset.data(), r.plan);
      r.plan.piece(0, r.piece);
      r.plan.piece(1, r.second);
      auto first = r.exchange->send(r.exec, r.piece, r.slots, r.arrived);
      auto second = r.exchange->send(r.exec, r.second, r.slots, r.beside);
      first.wait();
      second.wait();
      first = r.exchange->send_back(r.exec, r.piece, r.arrived, r.slots);
      first.wait();
      EXPECT_EQ(listener.heard(), 0) << "path " << static_cast<int>(path);
      EXPECT_EQ(kokkos_allocations, std::vector<std::string>());
    }
    EXPECT_GT(r.piece.rows, 0);
  }
  Listener const listener;
  View1<double> const view("heard", 3);
  EXPECT_EQ(kokkos_allocations, std::vector<std::string>{"heard"});
  EXPECT_GT(listener.heard(), 0);
}

TEST(Pending, WaitsInItsDestructor) {
  auto const world = Communicator::world();
  for (auto const path : {ExchangePath::automatic, ExchangePath::pairwise}) {
    Ready r(world, 4, 1, path);
    r.exchange->count(r.offset.data(), r.plan);
    r.plan.piece(0, r.piece);
    // More than two in sequence: each gives its place back.
    for (int i = 0; i < 4; ++i) auto const pending = r.exchange->send(r.exec, r.piece, r.slots, r.arrived);
    check_arrived(r);
  }
}

TEST(Pending, OutlivesTheExchangeAndTheBuffersOfTheCaller) {
  auto const world = Communicator::world();
  for (auto const path : {ExchangePath::automatic, ExchangePath::staged, ExchangePath::pairwise}) {
    Ready r(world, 4, 1, path);
    r.exchange->count(r.offset.data(), r.plan);
    r.plan.piece(0, r.piece);
    auto pending = r.exchange->send(r.exec, r.piece, r.slots, r.arrived);
    EXPECT_GT(r.slots.use_count(), 1);
    r.exchange.reset();
    r.slots = {};
    auto moved = std::move(pending);
    moved.wait();
    moved.wait();
    pending.wait();
    check_arrived(r);
  }
}

TEST(TokenExchange, CountsTheBytesThatLeaveTheRank) {
  auto const world = Communicator::world();
  Index const P = world.size();
  Ready r(world, 8, 1, ExchangePath::automatic);
  EXPECT_EQ(r.exchange->statistics().bytes, 0.0);
  r.exchange->count(r.offset.data(), r.plan);
  double bytes = static_cast<double>((P - 1) * 8) * sizeof(Index);
  EXPECT_EQ(r.exchange->statistics().bytes, bytes);
  r.plan.piece(0, r.piece);
  r.exchange->send(r.exec, r.piece, r.slots, r.arrived).wait();
  bytes += static_cast<double>((16 - 16 / P) * 4) * sizeof(double);  // 2 rows to each of 8 experts
  EXPECT_EQ(r.exchange->statistics().bytes, bytes);
  r.exchange->send_back(r.exec, r.piece, r.arrived, r.slots).wait();
  bytes += static_cast<double>((16 - 16 / P) * 4) * sizeof(double);
  auto const all = r.exchange->statistics();
  EXPECT_EQ(all.bytes, bytes);
  EXPECT_GT(all.blocked, 0.0);
  EXPECT_GE(all.seconds, all.blocked);
  {
    auto const pending = r.exchange->send(r.exec, r.piece, r.slots, r.arrived);
    EXPECT_THROW(r.exchange->reset_statistics(), std::logic_error);
  }
  r.exchange->reset_statistics();
  EXPECT_EQ(r.exchange->statistics().bytes, 0.0);
  EXPECT_EQ(r.exchange->statistics().seconds, 0.0);
}

TEST(TokenExchange, RefusesWrongUse) {
  auto const world = Communicator::world();
  auto const first = expert_ranges(4, world.size());
  auto const make = [&](ExchangeShape const& shape, Index width) {
    TokenExchange<float> const exchange(world, shape, width);
  };
  EXPECT_THROW(make({expert_ranges(4, world.size() + 1), 8, 2.0, 1}, 3), std::logic_error);
  EXPECT_THROW(make({first, 8, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({first, 8, -1.0, 1}, 3), std::logic_error);
  if (world.size() > 1) {  // found out by all ranks but the first
    EXPECT_THROW(make({first, 8 + world.rank(), 2.0, 1}, 3), std::logic_error);
    EXPECT_THROW(make({first, 8, 2.0, 1}, 3 + world.rank()), std::logic_error);
  }

  Ready r(world, 4, 1, ExchangePath::automatic);
  ExchangePlan other({r.shape.first, r.shape.max_slots, 1.5, 1}, world.rank());
  EXPECT_THROW(r.exchange->count(r.offset.data(), other), std::logic_error);
  r.exchange->count(r.offset.data(), r.plan);
  r.plan.piece(0, r.piece);
  auto const send = [&](View2<double> const& slots, View2<double> const& arrived) {
    r.exchange->send(r.exec, r.piece, slots, arrived).wait();
  };
  View2<double> const wide("wide", 8 * world.size(), 5), few("few", 7, 4);
  EXPECT_THROW(send(wide, r.arrived), std::logic_error);
  EXPECT_THROW(send(r.slots, wide), std::logic_error);
  EXPECT_THROW(send(few, r.arrived), std::logic_error);
  EXPECT_THROW(send(r.slots, rows_of(r.arrived, 0, r.piece.rows - 1)), std::logic_error);
  EXPECT_THROW((void)r.exchange->send(r.exec, ExchangePlan::Piece(), r.slots, r.arrived), std::logic_error);
  {
    auto const one = r.exchange->send(r.exec, r.piece, r.slots, r.arrived);
    auto const two = r.exchange->send(r.exec, r.piece, r.slots, View2<double>("another", r.piece.rows, 4));
    EXPECT_THROW((void)r.exchange->send(r.exec, r.piece, r.slots, r.arrived), std::logic_error);
  }
  send(r.slots, r.arrived);  // and the ranks are still in step
  check_arrived(r);
}

}  // namespace
}  // namespace upit
