// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the exchange's arithmetic: every row is enumerated and followed from its sender to its
// place.
#include "upit/comm/exchange_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "counted_memory.hpp"
#include "upit/comm/rank_grid.hpp"
#include "upit/core/random.hpp"

namespace upit {
namespace {

using Counts = std::vector<Index>;  // (P, E)

/// What is sent: slot k of `source` for `expert`.
struct Row {
  Index source, expert, k;
  bool operator==(Row const&) const = default;
};

/// Every rank throws up to `slots` slots at the experts; expert 0 is `skew` times as likely as the others.
Counts random_counts(Index P, Index E, Index slots, Index skew, std::uint64_t seed) {
  Counts counts(at(P * E), 0);
  for (Index s = 0; s < P; ++s) {
    RandomKey const key = random_key(seed, "exchange", s);
    Index const mine = s == 0 ? slots : static_cast<Index>(random_below(key, 0, at(slots + 1)));
    for (Index k = 1; k <= mine; ++k) {
      Index const draw = static_cast<Index>(random_below(key, at(k), at(E - 1 + skew)));
      ++counts[at(s * E + std::max(Index{0}, draw - skew + 1))];
    }
  }
  return counts;
}

/// All rows of one source in the order of its slots.
std::vector<Row> slots_of(Counts const& counts, Index E, Index source) {
  std::vector<Row> rows;
  for (Index e = 0; e < E; ++e) {
    for (Index k = 0; k < counts[at(source * E + e)]; ++k) rows.push_back({source, e, k});
  }
  return rows;
}

/// All rows of one receiver in receive order.
std::vector<Row> received_by(ExchangeShape const& shape, Counts const& counts, Index q) {
  std::vector<Row> rows;
  for (Index e = shape.first[at(q)]; e < shape.first[at(q + 1)]; ++e) {
    for (Index s = 0; s < shape.ranks(); ++s) {
      for (Index k = 0; k < counts[at(s * shape.experts() + e)]; ++k) rows.push_back({s, e, k});
    }
  }
  return rows;
}

/// Follows every row through every piece.
void check_plan(ExchangeShape const& shape, Counts const& counts) {
  Index const P = shape.ranks(), E = shape.experts();
  std::vector<ExchangePlan> plans;
  std::vector<ExchangePlan::Piece> pieces;
  std::vector<std::vector<Row>> slots, expected;
  std::vector<std::vector<int>> times_sent;
  Index rounds = 1;
  for (Index q = 0; q < P; ++q) {
    plans.emplace_back(shape, q);
    plans.back().assign(counts);
    pieces.push_back(plans.back().empty_piece());
    slots.push_back(slots_of(counts, E, q));
    times_sent.emplace_back(slots.back().size(), 0);
    expected.push_back(received_by(shape, counts, q));
    Index const capacity = exchange_capacity(shape, q), rows = std::ssize(expected.back());
    EXPECT_EQ(plans.back().capacity(), capacity);
    EXPECT_EQ(plans.back().received(), rows);
    EXPECT_EQ(plans.back().sent(), std::ssize(slots.back()));
    while (rounds * capacity < rows) ++rounds;
  }
  std::vector<Index> taken(at(P), 0);
  for (Index i = 0; i < rounds * shape.chunks; ++i) {
    for (Index q = 0; q < P; ++q) {
      ASSERT_EQ(plans[at(q)].pieces(), rounds * shape.chunks);
      ASSERT_EQ(plans[at(q)].rounds(), rounds);
      plans[at(q)].piece(i, pieces[at(q)]);
    }
    Index largest = 0;
    for (Index q = 0; q < P; ++q) {
      for (Index const n : pieces[at(q)].send_count) largest = std::max(largest, n);
    }
    for (Index q = 0; q < P; ++q) {
      auto const& piece = pieces[at(q)];
      Index const capacity = plans[at(q)].capacity();
      EXPECT_EQ(piece.largest, largest);
      EXPECT_EQ(piece.round, i / shape.chunks);
      EXPECT_EQ(piece.first, taken[at(q)]);
      taken[at(q)] += piece.rows;
      EXPECT_LE(piece.rows, plans[at(q)].piece_capacity());
      EXPECT_GE(piece.buffer_row, 0);
      EXPECT_LE(piece.buffer_row + piece.rows, capacity);
      if (piece.rows > 0) {
        EXPECT_EQ(piece.buffer_row, piece.first - piece.round * capacity);
      }

      // What MPI does: one interval of each source's slots, one after the other.
      std::vector<Row> arrived(at(piece.rows), Row{-1, -1, -1});
      for (Index s = 0; s < P; ++s) {
        auto const& sender = pieces[at(s)];
        ASSERT_EQ(piece.receive_count[at(s)], sender.send_count[at(q)]);
        for (Index m = 0; m < sender.send_count[at(q)]; ++m) {
          Index const slot = sender.send_offset[at(q)] + m;
          ASSERT_LT(slot, std::ssize(slots[at(s)]));
          ++times_sent[at(s)][at(slot)];
          Index const row = piece.receive_offset[at(s)] + m;
          ASSERT_LT(row, piece.rows);
          ASSERT_EQ(arrived[at(row)], (Row{-1, -1, -1})) << "two rows arrive at one place";
          arrived[at(row)] = slots[at(s)][at(slot)];
        }
      }
      std::vector<int> place(at(piece.rows) + 1, -7);
      plans[at(q)].arrival(piece, place);
      EXPECT_EQ(place.back(), -7);
      for (Index m = 0; m < piece.rows; ++m) {
        ASSERT_GE(place[at(m)], 0);
        ASSERT_LT(place[at(m)], piece.rows);
        ASSERT_EQ(arrived[at(place[at(m)])], expected[at(q)][at(piece.first + m)]);
      }

      Index const owned = shape.first[at(q + 1)] - shape.first[at(q)];
      ASSERT_EQ(std::ssize(piece.expert_offset), owned + 1);
      EXPECT_EQ(piece.expert_offset.front(), 0);
      EXPECT_EQ(piece.expert_offset.back(), piece.rows);
      for (Index e = 0; e < owned; ++e) {
        ASSERT_LE(piece.expert_offset[at(e)], piece.expert_offset[at(e + 1)]);
        for (Index m = piece.expert_offset[at(e)]; m < piece.expert_offset[at(e + 1)]; ++m) {
          ASSERT_EQ(expected[at(q)][at(piece.first + m)].expert, shape.first[at(q)] + e);
        }
      }
    }
  }
  for (Index q = 0; q < P; ++q) {
    EXPECT_EQ(taken[at(q)], std::ssize(expected[at(q)]));
    for (int const times : times_sent[at(q)]) EXPECT_EQ(times, 1);
  }
}

/// Every capacity and number of chunks.
void check_counts(std::vector<Index> const& first, Index slots, Counts const& counts) {
  for (double const capacity : {0.01, 0.3, 1.0, 2.0}) {
    for (Index const chunks : {1, 3}) {
      SCOPED_TRACE(testing::Message() << first.size() - 1 << " ranks, " << first.back()
                                      << " experts, capacity " << capacity << ", chunks " << chunks);
      check_plan({first, slots, capacity, chunks}, counts);
    }
  }
}

constexpr std::array<std::array<Index, 2>, 9> kArrangements = {
    {{1, 1}, {1, 4}, {2, 1}, {2, 4}, {2, 5}, {3, 7}, {4, 3}, {4, 4}, {4, 10}}};

TEST(ExchangePlan, BringsEveryRowToItsPlaceOnce) {
  for (auto const [P, E] : kArrangements) {
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      check_counts(expert_ranges(E, P), 29, random_counts(P, E, 29, 1, seed));
      check_counts(expert_ranges(E, P), 17, random_counts(P, E, 17, 12, seed));
    }
  }
}

TEST(ExchangePlan, TakesRangesOfAnySize) {
  check_counts({0, 0, 6, 6, 7}, 23, random_counts(4, 7, 23, 1, 8));
  check_counts({0, 5, 5}, 23, random_counts(2, 5, 23, 2, 9));
}

TEST(ExchangePlan, TakesFurtherRoundsWhenAllRowsGoToOneExpert) {
  for (auto const [P, E] : kArrangements) {
    for (Index const only : {Index{0}, E - 1}) {
      Counts counts(at(P * E), 0);
      for (Index s = 0; s < P; ++s) counts[at(s * E + only)] = 12;
      check_counts(expert_ranges(E, P), 12, counts);
    }
  }
  ExchangePlan plan({{0, 2, 4}, 12, 1.0, 3}, 0);
  plan.assign(Counts{0, 0, 12, 0, 0, 0, 12, 0});
  EXPECT_EQ(plan.rounds(), 2);  // 24 rows, 12 at a time, by the other rank
  EXPECT_EQ(plan.pieces(), 6);
  EXPECT_EQ(plan.received(), 0);
}

TEST(ExchangePlan, TakesNoRowsAndRowsOfOneRankAlone) {
  for (auto const [P, E] : kArrangements) {
    Counts counts(at(P * E), 0);
    check_counts(expert_ranges(E, P), 5, counts);
    check_counts(expert_ranges(E, P), 0, counts);
    for (Index e = 0; e < E; ++e) counts[at((P - 1) * E + e)] = e % 3;
    check_counts(expert_ranges(E, P), 10, counts);
  }
}

TEST(ExchangePlan, ForgetsTheCountsBefore) {
  ExchangeShape const shape{{0, 2, 5}, 20, 0.5, 2};
  ExchangePlan used(shape, 1), fresh(shape, 1);
  used.assign(random_counts(2, 5, 20, 20, 1));
  Counts const counts = random_counts(2, 5, 20, 1, 2);
  used.assign(counts);
  fresh.assign(counts);
  ASSERT_EQ(used.pieces(), fresh.pieces());
  auto a = used.empty_piece(), b = fresh.empty_piece();
  for (Index i = 0; i < used.pieces(); ++i) {
    used.piece(i, a);
    fresh.piece(i, b);
    EXPECT_EQ(a.first, b.first);
    EXPECT_EQ(a.rows, b.rows);
    EXPECT_EQ(a.send_offset, b.send_offset);
    EXPECT_EQ(a.send_count, b.send_count);
    EXPECT_EQ(a.receive_count, b.receive_count);
    EXPECT_EQ(a.expert_offset, b.expert_offset);
  }
}

TEST(ExchangePlan, AllocatesNothingAfterItsConstruction) {
  ExchangePlan plan({{0, 2, 5}, 40, 0.3, 3}, 1);
  auto piece = plan.empty_piece();
  std::vector<int> place(at(plan.capacity()));
  Counts const counts = random_counts(2, 5, 40, 5, 3);
  long const before = test::allocations;
  plan.assign(counts);
  for (Index i = 0; i < plan.pieces(); ++i) {
    plan.piece(i, piece);
    plan.arrival(piece, place);
  }
  EXPECT_EQ(test::allocations, before);
  EXPECT_GT(plan.rounds(), 1);
  std::vector<int> const one(1);
  EXPECT_GT(test::allocations, before) << "and they are counted";
}

TEST(ExchangeCapacity, IsAMultipleOfTheBalancedLoad) {
  // 2 ranks with 10 slots each; 2 of 5 experts are chosen by 8 slots, 3 by 12.
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 1.0, 1}, 0), 8);
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 1.0, 1}, 1), 12);
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 0.3, 1}, 0), 3);  // 2.4 rounded up
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 0.3, 1}, 1), 4);  // 3.6
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 2.0, 1}, 0), 16);
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 2.0, 1}, 1), 20);  // all there are
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 1e300, 1}, 0), 20);
  EXPECT_EQ(exchange_capacity({{0, 2, 5}, 10, 1e-300, 1}, 0), 1);
  EXPECT_EQ(exchange_capacity({{0, 0, 1, 2, 3}, 6, 1.0, 1}, 0), 0);
  EXPECT_EQ(exchange_capacity({{0, 0, 1, 2, 3}, 6, 1.0, 1}, 1), 8);
  EXPECT_EQ(exchange_capacity({{0, 4}, 7, 2.0, 1}, 0), 7);  // a rank alone holds everything
  EXPECT_THROW((void)exchange_capacity({{0, 4}, 7, 2.0, 1}, 1), std::logic_error);
}

TEST(ExchangePlan, RefusesWhatHasNoSense) {
  auto const make = [](ExchangeShape const& shape, Index rank) { ExchangePlan const plan(shape, rank); };
  EXPECT_NO_THROW(make({{0, 2, 4}, 8, 2.0, 1}, 1));
  EXPECT_THROW(make({{0, 2, 4}, 8, 2.0, 1}, 2), std::logic_error);
  EXPECT_THROW(make({{0, 2, 4}, 8, 2.0, 1}, -1), std::logic_error);
  EXPECT_THROW(make({{}, 8, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0}, 8, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{1, 4}, 8, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 3, 2}, 8, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 0}, 8, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 4}, -1, 2.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 4}, 8, 0.0, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 4}, 8, NAN, 1}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 4}, 8, 2.0, 0}, 0), std::logic_error);
  EXPECT_THROW(make({{0, 2, 4}, Index{1} << 30, 2.0, 1}, 0), std::logic_error);  // 2^31 rows in the group

  ExchangePlan plan({{0, 2, 4}, 8, 2.0, 1}, 1);
  EXPECT_THROW(plan.assign(Counts(7, 0)), std::logic_error);
  EXPECT_THROW(plan.assign(Counts{2, 2, 2, 3, 0, 0, 0, 0}), std::logic_error);
  EXPECT_THROW(plan.assign(Counts{2, -1, 2, 2, 0, 0, 0, 0}), std::logic_error);
  plan.assign(Counts{2, 2, 2, 2, 1, 0, 0, 0});
  auto piece = plan.empty_piece();
  EXPECT_THROW(plan.piece(plan.pieces(), piece), std::logic_error);
  EXPECT_THROW(plan.piece(-1, piece), std::logic_error);
  ExchangePlan::Piece other;
  EXPECT_THROW(plan.piece(0, other), std::logic_error);
  plan.piece(0, piece);
  std::vector<int> narrow(at(piece.rows - 1));
  EXPECT_THROW(plan.arrival(piece, narrow), std::logic_error);
}

}  // namespace
}  // namespace upit
