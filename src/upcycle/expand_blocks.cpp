// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/expand_blocks.hpp"

#include <algorithm>

#include "upit/core/error.hpp"

namespace upit::upcycle {

Slab Piece::slab() const {
  if (tensor->group == Group::expert) return {{0, row}, {1, rows}};
  return {{row}, {rows}};
}

RowBlocks::RowBlocks(ParameterTable const& table, Group group) {
  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != group) continue;
    std::size_t const axis = group == Group::expert ? 1 : 0;
    expect(axis == 0 || t.shape[0] == 1, "RowBlocks: tables of one expert");
    Index const rows = t.shape[axis];
    Index const columns = axis + 1 < t.shape.size() ? t.shape[axis + 1] : 1;
    Index const block_rows = std::max<Index>(1, kBlockElements / std::max<Index>(1, columns));
    tensors_.push_back({&t, number, 0, rows, columns, count_, block_rows});
    count_ += (rows + block_rows - 1) / block_rows;
    ++number;
  }
}

std::vector<Piece> RowBlocks::pieces(Index first, Index blocks, Index elements) const {
  std::vector<Piece> out;
  for (Piece const& whole : tensors_) {
    Index const begin = std::max<Index>(0, (first - whole.block0) * whole.block_rows);
    Index const end = std::min(whole.rows, (first + blocks - whole.block0) * whole.block_rows);
    Index const at_once = std::max<Index>(1, elements / std::max<Index>(1, whole.columns));
    for (Index row = begin; row < end; row += at_once) {
      Piece piece = whole;
      piece.row = row;
      piece.rows = std::min(at_once, end - row);
      out.push_back(piece);
    }
  }
  return out;
}

}  // namespace upit::upcycle
