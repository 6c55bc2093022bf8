// SPDX-License-Identifier: Apache-2.0
// Owns how the tensors of a group are cut for streaming: blocks that fix the order of sums, pieces that fix
// memory.
#pragma once

#include <vector>

#include "upit/io/hdf5.hpp"
#include "upit/model/parameters.hpp"

namespace upit::upcycle {

/// Consecutive rows of a tensor, in memory at one time.
struct Piece {
  Tensor const* tensor;
  Index number;              // of the tensor in its group
  Index row, rows, columns;  // rows of the tensor's matrix
  Index block0, block_rows;  // the tensor's first block, and rows of a block

  Index size() const { return rows * columns; }
  Index first_element() const { return row * columns; }
  /// The block of the piece's row r.
  Index block(Index r) const { return block0 + (row + r) / block_rows; }
  /// Where the piece lies in its dataset.
  Slab slab() const;
};

/// The tensors of one group as matrices (expert tensors (1, rows, columns) without their first axis, vectors
/// as one row an element), cut into blocks of about `kBlockElements` elements, whole rows each. The cut
/// depends on the table alone: a sum taken row by row within blocks and then block by block has the same bits
/// on any number of ranks and for pieces of any size.
class RowBlocks {
 public:
  static constexpr Index kBlockElements = Index{1} << 18;

  /// The table must outlive this object and hold one expert.
  RowBlocks(ParameterTable const& table, Group group);

  Index count() const { return count_; }
  /// The rows of blocks [first, first + blocks), in order, in pieces of at most `elements` elements but never
  /// less than a row. A piece stays within a tensor and may reach over blocks.
  std::vector<Piece> pieces(Index first, Index blocks, Index elements) const;

 private:
  std::vector<Piece> tensors_;  // whole
  Index count_ = 0;
};

}  // namespace upit::upcycle
