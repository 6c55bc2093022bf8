// SPDX-License-Identifier: Apache-2.0
#include "upit/comm/exchange_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "upit/core/error.hpp"

namespace upit {
namespace {

void check_shape(ExchangeShape const& shape) {
  expect(shape.first.size() >= 2 && shape.first.front() == 0, "ranges of experts begin at expert 0");
  expect(std::is_sorted(shape.first.begin(), shape.first.end()) && shape.experts() >= 1,
         "ranges of experts follow each other");
  expect(shape.max_slots >= 0 && shape.chunks >= 1, "slots are counted, chunks are one at least");
  expect(std::isfinite(shape.capacity) && shape.capacity > 0.0, "the capacity is positive");
  // Rows are MPI counts and displacements, and `arrival` holds them as int.
  expect(shape.max_slots <= std::numeric_limits<int>::max() / shape.ranks(),
         "all slots of a group fit an MPI count");
}

}  // namespace

Index exchange_capacity(ExchangeShape const& shape, Index q) {
  expect(q >= 0 && q < shape.ranks(), "a rank of the group");
  Index const owned = shape.first[at(q + 1)] - shape.first[at(q)];
  if (owned == 0) return 0;
  Index const all = shape.ranks() * shape.max_slots;
  double const balanced =
      static_cast<double>(all) * static_cast<double>(owned) / static_cast<double>(shape.experts());
  // Compared as double: a large capacity must not overflow on its way to an integer.
  double const rows = std::min(std::ceil(shape.capacity * balanced), static_cast<double>(all));
  return std::max(Index{1}, static_cast<Index>(rows));
}

ExchangePlan::ExchangePlan(ExchangeShape shape, Index rank) : shape_(std::move(shape)), rank_(rank) {
  check_shape(shape_);
  Index const P = shape_.ranks(), E = shape_.experts();
  expect(rank_ >= 0 && rank_ < P, "a rank of the group");
  owned_ = shape_.first[at(rank_ + 1)] - shape_.first[at(rank_)];
  for (Index q = 0; q < P; ++q) capacity_.push_back(exchange_capacity(shape_, q));
  counts_.assign(at(P * E), 0);
  begin_.assign(at(E * P), 0);
  received_.assign(at(P), 0);
  slot_.assign(at(E + 1), 0);
}

void ExchangePlan::assign(std::span<Index const> counts) {
  Index const P = shape_.ranks(), E = shape_.experts();
  expect(std::ssize(counts) == P * E, "a count for every rank and expert");
  for (Index s = 0; s < P; ++s) {
    Index sum = 0;
    for (Index e = 0; e < E; ++e) {
      expect(counts[at(s * E + e)] >= 0, "counts are not negative");
      sum += counts[at(s * E + e)];
    }
    expect(sum <= shape_.max_slots, "no rank has more slots than the exchange was made for");
  }
  std::copy(counts.begin(), counts.end(), counts_.begin());
  for (Index e = 0; e < E; ++e) slot_[at(e + 1)] = slot_[at(e)] + counts_[at(rank_ * E + e)];
  rounds_ = 1;
  for (Index q = 0; q < P; ++q) {
    Index row = 0;
    for (Index e = shape_.first[at(q)]; e < shape_.first[at(q + 1)]; ++e) {
      for (Index s = 0; s < P; ++s) {
        begin_[at(e * P + s)] = row;
        row += counts_[at(s * E + e)];
      }
    }
    received_[at(q)] = row;
    if (row > 0) rounds_ = std::max(rounds_, (row + capacity_[at(q)] - 1) / capacity_[at(q)]);
  }
}

ExchangePlan::Interval ExchangePlan::interval(Index rank, Index piece) const {
  Index const round = piece / shape_.chunks, chunk = piece % shape_.chunks;
  Index const capacity = capacity_[at(rank)], received = received_[at(rank)];
  Index const first = std::min(round * capacity, received);
  Index const rows = std::min(capacity, received - first);
  return {first + rows * chunk / shape_.chunks, first + rows * (chunk + 1) / shape_.chunks};
}

ExchangePlan::Piece ExchangePlan::empty_piece() const {
  Piece out;
  for (auto* part : {&out.send_count, &out.send_offset, &out.receive_count, &out.receive_offset}) {
    part->assign(at(shape_.ranks()), 0);
  }
  out.expert_offset.assign(at(owned_ + 1), 0);
  return out;
}

void ExchangePlan::piece(Index i, Piece& out) const {
  Index const P = shape_.ranks();
  expect(i >= 0 && i < pieces(), "a piece of the plan");
  expect(std::ssize(out.send_count) == P && std::ssize(out.expert_offset) == owned_ + 1,
         "the piece was made by this plan");
  out.largest = 0;
  for (Index q = 0; q < P; ++q) {
    Interval const taken = interval(q, i);
    for (Index s = 0; s < P; ++s) {
      Index before = 0, inside = 0;
      for (Index e = shape_.first[at(q)]; e < shape_.first[at(q + 1)]; ++e) {
        Interval const rows = segment(s, e);
        Index const first = std::clamp(taken.first, rows.first, rows.end);
        before += first - rows.first;
        inside += std::clamp(taken.end, rows.first, rows.end) - first;
      }
      out.largest = std::max(out.largest, inside);
      if (s == rank_) {
        out.send_count[at(q)] = inside;
        out.send_offset[at(q)] = slot_[at(shape_.first[at(q)])] + before;
      }
      if (q == rank_) out.receive_count[at(s)] = inside;
    }
  }
  Index row = 0;
  for (Index s = 0; s < P; ++s) {
    out.receive_offset[at(s)] = row;
    row += out.receive_count[at(s)];
  }
  Interval const taken = interval(rank_, i);
  out.first = taken.first;
  out.rows = taken.end - taken.first;
  out.round = i / shape_.chunks;
  // Beyond this rank's last round the piece is empty, and `first` lies before the round.
  out.buffer_row = std::max(Index{0}, taken.first - out.round * capacity());
  for (Index e = 0; e < owned_; ++e) {
    Index const begin = segment(0, shape_.first[at(rank_)] + e).first;
    out.expert_offset[at(e)] = std::clamp(begin, taken.first, taken.end) - taken.first;
  }
  out.expert_offset[at(owned_)] = out.rows;
}

void ExchangePlan::arrival(Piece const& piece, std::span<int> out) const {
  expect(std::ssize(out) >= piece.rows, "a place for every row of the piece");
  Index const end = piece.first + piece.rows;
  for (Index s = 0; s < shape_.ranks(); ++s) {
    Index arrived = piece.receive_offset[at(s)];
    for (Index e = shape_.first[at(rank_)]; e < shape_.first[at(rank_ + 1)]; ++e) {
      Interval const rows = segment(s, e);
      Index const last = std::clamp(end, rows.first, rows.end);
      for (Index m = std::clamp(piece.first, rows.first, rows.end); m < last; ++m) {
        out[at(m - piece.first)] = static_cast<int>(arrived++);
      }
    }
  }
}

}  // namespace upit
