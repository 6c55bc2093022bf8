// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the token exchange: rows carry their origin as their contents, go to their experts, are
// changed there and come back.
#include "upit/comm/token_exchange.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "exchange_support.hpp"
#include "upit/comm/rank_grid.hpp"
#include "upit/core/random.hpp"

namespace upit {
namespace {

using namespace test;

using Counts = std::vector<Index>;  // (P, E), known to every rank of a test

template <class T>
View2<T> to_memory(std::vector<T> const& values, Index columns) {
  View2<T> view("values", std::ssize(values) / columns, columns);
  auto const host = Kokkos::create_mirror_view(view);
  for (Index i = 0; i < std::ssize(values); ++i) host(i / columns, i % columns) = values[at(i)];
  Kokkos::deep_copy(view, host);
  return view;
}

/// Says where a value comes from; below 2^22, thus exact in float, also with a half added. In 16 bits numbers
/// below 120 have to do, of which neighbouring rows and columns have different ones.
template <class T>
Real<T> code(Index source, Index slot, Index column) {
  Index const all = (source * 10000 + slot) * 100 + column;
  return static_cast<Real<T>>(std::is_same_v<T, bfloat16> ? (source * 37 + slot * 11 + column) % 120 : all);
}

struct Case {
  std::vector<Index> first;
  Counts counts;
  double capacity = 2.0;
  Index chunks = 1;
  Index width = 3;
  ExchangePath path = ExchangePath::automatic;
};

Index max_slots(Case const& c) {
  Index const E = c.first.back(), P = std::ssize(c.first) - 1;
  Index most = 0;
  for (Index s = 0; s < P; ++s) {
    Index sum = 0;
    for (Index e = 0; e < E; ++e) sum += c.counts[at(s * E + e)];
    most = std::max(most, sum);
  }
  return most;
}

std::vector<Index> offsets_of(Case const& c, Index source) {
  Index const E = c.first.back();
  std::vector<Index> offset(at(E + 1), 0);
  for (Index e = 0; e < E; ++e) offset[at(e + 1)] = offset[at(e)] + c.counts[at(source * E + e)];
  return offset;
}

/// One step of a layer: all rows to their experts, half added there, and back. Two pieces are under way at a
/// time. Returns the slots after it and three rows beyond, which nothing may touch.
template <class T>
std::vector<T> step(Communicator const& group, Case const& c) {
  Index const P = group.size(), me = group.rank(), C = c.width;
  ExchangeShape const shape{c.first, max_slots(c), c.capacity, c.chunks};
  TokenExchange<T> exchange(group, shape, C, c.path);
  ExchangePlan plan(shape, me);
  EXPECT_EQ(exchange.shape(), shape);
  EXPECT_EQ(exchange.capacity(), plan.capacity());
  std::vector<std::vector<Index>> offset;
  for (Index s = 0; s < P; ++s) offset.push_back(offsets_of(c, s));
  Index const mine = offset[at(me)].back();
  exchange.count(offset[at(me)].data(), plan);
  EXPECT_EQ(plan.sent(), mine);

  std::vector<T> values;
  for (Index slot = 0; slot < mine + 3; ++slot) {
    for (Index x = 0; x < C; ++x) values.push_back(T(slot < mine ? code<T>(me, slot, x) : Real<T>(-1)));
  }
  View2<T> const slots = to_memory(values, C);
  View2<T> const back = to_memory(std::vector<T>(at((mine + 3) * C), T(-1)), C);
  View2<T> const buffer("buffer", plan.capacity(), C);

  // The source and place of each row that comes here, in receive order.
  std::vector<std::pair<Index, Index>> expected;
  for (Index e = c.first[at(me)]; e < c.first[at(me + 1)]; ++e) {
    for (Index s = 0; s < P; ++s) {
      for (Index m = offset[at(s)][at(e)]; m < offset[at(s)][at(e + 1)]; ++m) expected.emplace_back(s, m);
    }
  }
  EXPECT_EQ(plan.received(), std::ssize(expected));

  Exec const exec;
  std::vector<ExchangePlan::Piece> pieces(at(c.chunks), plan.empty_piece());
  std::vector<int> place(at(plan.piece_capacity()));
  for (Index round = 0; round < plan.rounds(); ++round) {
    auto const rows = [&](Index k) {
      auto const& piece = pieces[at(k)];
      return rows_of(buffer, piece.buffer_row, piece.buffer_row + piece.rows);
    };
    auto const send = [&](Index k) {
      plan.piece(round * c.chunks + k, pieces[at(k)]);
      return exchange.send(exec, pieces[at(k)], slots, rows(k));
    };
    auto sending = send(0);
    typename TokenExchange<T>::Pending returning;
    for (Index k = 0; k < c.chunks; ++k) {
      sending.wait();
      returning.wait();
      if (k + 1 < c.chunks) sending = send(k + 1);
      auto const& piece = pieces[at(k)];
      auto arrived = to_vector(rows(k));
      plan.arrival(piece, place);
      for (Index m = 0; m < piece.rows; ++m) {
        auto const [source, slot] = expected[at(piece.first + m)];
        for (Index x = 0; x < C; ++x) {
          T& value = arrived[at(place[at(m)] * C + x)];
          auto const number = static_cast<Real<T>>(value);
          EXPECT_EQ(number, code<T>(source, slot, x)) << "row " << piece.first + m << " column " << x;
          value = T(number + Real<T>(0.5));
        }
      }
      Kokkos::deep_copy(rows(k), to_memory(arrived, C));
      returning = exchange.send_back(exec, piece, rows(k), back);  // beside the next chunk's way here
    }
    returning.wait();
  }
  EXPECT_EQ(std::memcmp(to_vector(slots).data(), values.data(), values.size() * sizeof(T)), 0)
      << "what is sent stays what it is";
  return to_vector(back);
}

template <class T>
void check_step(Communicator const& group, Case const& c) {
  SCOPED_TRACE(testing::Message() << group.size() << " ranks, " << c.first.back() << " experts, capacity "
                                  << c.capacity << ", chunks " << c.chunks << ", width " << c.width
                                  << ", path " << static_cast<int>(c.path) << ", " << max_slots(c)
                                  << " slots");
  auto const back = step<T>(group, c);
  Index const mine = offsets_of(c, group.rank()).back();
  ASSERT_EQ(std::ssize(back), (mine + 3) * c.width);
  for (Index i = 0; i < std::ssize(back); ++i) {
    Index const slot = i / c.width;
    Real<T> const expected =
        slot < mine ? code<T>(group.rank(), slot, i % c.width) + Real<T>(0.5) : Real<T>(-1);
    ASSERT_EQ(static_cast<Real<T>>(back[at(i)]), expected) << "slot " << slot << " column " << i % c.width;
  }
}

/// Up to n slots of every rank, thrown at the experts.
Counts random_counts(Index P, Index E, Index n, std::uint64_t seed) {
  Counts counts(at(P * E), 0);
  for (Index s = 0; s < P; ++s) {
    RandomKey const key = random_key(seed, "exchange", s);
    Index const mine = static_cast<Index>(random_below(key, 0, at(n))) + 1;
    for (Index k = 1; k <= mine; ++k)
      ++counts[at(s * E + static_cast<Index>(random_below(key, at(k), at(E))))];
  }
  return counts;
}

/// Balanced, skewed, empty: every kind of load of P ranks and E experts.
std::vector<Counts> loads(Index P, Index E) {
  std::vector<Counts> all = {random_counts(P, E, 40, 1), Counts(at(P * E), 0)};
  Counts one(at(P * E), 0), last(at(P * E), 0), skewed = random_counts(P, E, 9, 2);
  for (Index s = 0; s < P; ++s) {
    one[at(s * E)] = 11;
    skewed[at(s * E + E - 1)] += 23;
  }
  for (Index e = 0; e < E; ++e) last[at((P - 1) * E + e)] = 4;  // the other ranks send nothing
  all.insert(all.end(), {one, last, skewed});
  return all;
}

void check_all_loads(Communicator const& group, ExchangePath path) {
  Index const P = group.size();
  for (Index const E : {1, 3, 5, 8}) {
    for (Counts const& counts : loads(P, E)) {
      check_step<float>(group, {expert_ranges(E, P), counts, 2.0, 1, 3, path});
      check_step<double>(group, {expert_ranges(E, P), counts, 0.6, 2, 1, path});
      check_step<bfloat16>(group, {expert_ranges(E, P), counts, 0.6, 2, 5, path});
    }
  }
}

TEST(TokenExchange, BringsRowsToTheirExpertsAndBack) {
  check_all_loads(Communicator::world(), ExchangePath::automatic);
}

TEST(TokenExchange, DoesSoThroughPinnedBuffers) {
  check_all_loads(Communicator::world(), ExchangePath::staged);
}

TEST(TokenExchange, DoesSoPairByPair) { check_all_loads(Communicator::world(), ExchangePath::pairwise); }

TEST(TokenExchange, TakesFurtherRoundsAndChunks) {
  auto const world = Communicator::world();
  Index const P = world.size();
  Counts counts(at(P * 4), 0);
  for (Index s = 0; s < P; ++s) counts[at(s * 4 + 3)] = 10 + s;
  for (Index const chunks : {1, 2, 3, 5}) {
    Case const c{expert_ranges(4, P), counts, 0.3, chunks, 2, ExchangePath::automatic};
    check_step<double>(world, c);
    ExchangePlan plan({c.first, max_slots(c), c.capacity, chunks}, 0);
    plan.assign(counts);
    EXPECT_GT(plan.rounds(), 2);
  }
}

TEST(TokenExchange, WorksInGroupsOfTheGrid) {
  auto const world = Communicator::world();
  for (int P = 1; P <= world.size(); P *= 2) {
    RankGrid const grid(world, P);
    // Groups have loads of their own.
    auto const seed = static_cast<std::uint64_t>(grid.replicas().rank());
    check_step<float>(grid.expert(), {expert_ranges(5, P), random_counts(P, 5, 30, seed), 0.5, 2});
  }
}

TEST(TokenExchange, SplitsMessagesAboveTheLimit) {
  auto const world = Communicator::world();
  Index const P = world.size();
  Counts const counts = random_counts(P, 3, 50, 5);
  for (auto const path : {ExchangePath::automatic, ExchangePath::staged, ExchangePath::pairwise}) {
    for (Index const elements : {1, 3, 11, 3 * 7}) {  // of 3 columns: 1, 1, 3, 7 rows a call
      Limit const limit(elements);
      calls = {};
      check_step<double>(world, {expert_ranges(3, P), counts, 2.0, 1, 3, path});
      check_step<float>(world, {expert_ranges(3, P), counts, 0.4, 2, 3, path});
      EXPECT_EQ(world.max(Index{calls.most}), std::max(Index{1}, elements / 3));
      EXPECT_GT(calls.collective + calls.sends, 4);
    }
  }
}

TEST(TokenExchange, RepeatsItselfBitForBit) {
  auto const world = Communicator::world();
  Case const c{expert_ranges(5, world.size()), random_counts(world.size(), 5, 60, 6), 0.7, 2};
  EXPECT_EQ(step<float>(world, c), step<float>(world, c));
}

}  // namespace
}  // namespace upit
