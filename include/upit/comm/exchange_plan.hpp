// SPDX-License-Identifier: Apache-2.0
// Owns the arithmetic of the token exchange: which rows go where in which piece. Knows no MPI.
#pragma once

#include <span>
#include <vector>

#include "upit/core/index.hpp"

namespace upit {

/// What is the same on all P ranks of a group and for every exchange.
struct ExchangeShape {
  std::vector<Index> first;  // (P + 1) rank q owns the experts [first[q], first[q+1]); first[0] = 0
  Index max_slots = 0;       // the most slots, N * K, that any rank sends
  double capacity = 2.0;     // rows a rank takes in at a time, as a multiple of the balanced load
  Index chunks = 1;          // pieces of one round

  Index ranks() const { return std::ssize(first) - 1; }
  Index experts() const { return first.back(); }
  bool operator==(ExchangeShape const&) const = default;
};

/// Rows that rank q takes in at a time: capacity * P * max_slots * El / E, rounded up, the load of a rank
/// with El of E experts if all are chosen equally often. At least 1 with experts, 0 without; no more than all
/// slots of the group.
Index exchange_capacity(ExchangeShape const& shape, Index q);

/// Cuts the rows on their way to the experts into pieces, none of which overfills a buffer.
///
/// The receive order of a rank: by expert, then by source, then as the source had them. Round j of a rank
/// takes in the rows [j * capacity, (j+1) * capacity) of its own receive order, chunk c of the round the
/// c-th even share of those; piece j * chunks + c is that of all ranks together. A rank with fewer rows
/// than others has empty pieces at the end.
///
/// What one source sends to one rank in one piece is one interval of the source's slots, sorted by expert:
/// the receive order restricted to that source is (expert, place within the expert), which is the order of
/// its slots, and it has no gaps among the slots for that rank's experts, a contiguous range. An interval of
/// an order, restricted to a subset, is an interval of the subset's order.
///
/// All vectors get their sizes in the constructor; `assign`, `piece` and `arrival` allocate nothing.
class ExchangePlan {
 public:
  /// One piece as this rank sees it. Sent rows are sorted slots, received rows lie source after source, in
  /// each by expert.
  struct Piece {
    Index first = 0;                    // the piece is [first, first + rows) of this rank's receive order
    Index rows = 0;                     // received here
    Index round = 0;                    // of this piece
    Index buffer_row = 0;               // first - round * capacity: where it begins in the round's buffer
    Index largest = 0;                  // most rows between any two ranks: the same on all ranks
    std::vector<Index> send_count;      // (P) rows to each rank
    std::vector<Index> send_offset;     // (P) first of them among this rank's sorted slots
    std::vector<Index> receive_count;   // (P) rows from each rank
    std::vector<Index> receive_offset;  // (P) first of them in the arrived rows
    std::vector<Index>
        expert_offset;  // (El + 1) first row of each expert here, in receive order, from `first`
  };

  /// The plan of rank `rank` of the group. Throws `std::logic_error` on a shape without sense.
  ExchangePlan(ExchangeShape shape, Index rank);

  ExchangeShape const& shape() const { return shape_; }
  Index rank() const { return rank_; }
  /// Experts here.
  Index experts() const { return owned_; }
  /// Rows that a round of this rank holds at most.
  Index capacity() const { return capacity_[static_cast<std::size_t>(rank_)]; }
  /// Rows that a piece of this rank holds at most: a share of `capacity()`, rounded up.
  Index piece_capacity() const { return (capacity() + shape_.chunks - 1) / shape_.chunks; }

  /// counts (P, E): slots of each rank for each expert. Throws `std::logic_error` if one is negative or a
  /// rank has more than max_slots.
  void assign(std::span<Index const> counts);
  /// Rounds of the most loaded rank, at least 1: equal on all ranks.
  Index rounds() const { return rounds_; }
  /// rounds() * chunks.
  Index pieces() const { return rounds_ * shape_.chunks; }
  /// Rows that this rank gets in all.
  Index received() const { return received_[static_cast<std::size_t>(rank_)]; }
  /// Rows that this rank sends in all.
  Index sent() const { return slot_.back(); }

  /// A piece with vectors of the right sizes.
  Piece empty_piece() const;
  /// Piece i in [0, pieces()), into one made by `empty_piece`.
  void piece(Index i, Piece& out) const;
  /// For each row of the piece in receive order (by expert): its row among the arrived (by source). Gathering
  /// by it sorts the arrived rows by expert, scattering by it brings them back. Fills out[0, rows).
  void arrival(Piece const& piece, std::span<int> out) const;

 private:
  struct Interval {
    Index first, end;
  };
  Interval interval(Index rank, Index piece) const;
  /// Rows [., .) of the owner's receive order that hold what `source` has for `expert`.
  Interval segment(Index source, Index expert) const {
    Index const begin = begin_[static_cast<std::size_t>(expert * shape_.ranks() + source)];
    return {begin, begin + counts_[static_cast<std::size_t>(source * shape_.experts() + expert)]};
  }

  ExchangeShape shape_;
  Index rank_;
  Index owned_ = 0;
  Index rounds_ = 1;
  std::vector<Index> capacity_;  // (P)
  std::vector<Index> counts_;    // (P, E)
  std::vector<Index> begin_;     // (E, P) first row of each segment in its owner's receive order
  std::vector<Index> received_;  // (P)
  std::vector<Index> slot_;      // (E + 1) first sorted slot of each expert on this rank
};

}  // namespace upit
