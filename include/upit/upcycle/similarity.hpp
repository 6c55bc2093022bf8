// SPDX-License-Identifier: Apache-2.0
// Owns the similarity of LoRA experts on disk: inner products over all layers, and the cosines that follow.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/model/parameters.hpp"

namespace upit::upcycle {

/// What a cosine compares (deck: expand.similarity).
///   task_vector  the products (alpha/r) B A of all layers and of gate, up and down; B starts at zero, so the
///                product is the whole task vector and alpha/r cancels
///   weights      the values of A and B as they are
enum class Similarity { task_vector, weights };

/// "task_vector" | "weights"; throws `Error` for others.
Similarity parse_similarity(std::string_view text);

/// Cosines of a child with its two parents.
struct ChildCosines {
  double first = 0.0, second = 0.0;
};

/// Inner products of experts, one expert a file, in double. <B1 A1, B2 A2> = sum((B1^T B2) o (A1 A2^T)): r x
/// r factors, never d x f. The work comes in pieces, a matrix (gate, up, down) of a layer each, which are
/// dealt to the ranks; every piece's part of a product is kept apart and they are added in the order of the
/// pieces, so that a product has the same bits on any number of ranks and threads.
///
/// Memory of a rank: one factor (A or B) of one piece of all experts, (count + 1) R max(C, F) floats, and 3 L
/// doubles a new pair. All methods are collective; errors are `AgreedError`.
class SimilarityTable {
 public:
  /// `table`: of one expert, E = 1. The communicator and the table must outlive this object.
  SimilarityTable(Communicator const& comm, ParameterTable const& table, Similarity similarity);

  /// Adds the experts of these files behind those that are there.
  void add(std::vector<std::string> const& paths);
  /// Adds the child of experts `first` and `second`. Returns the cosines with them that it would have without
  /// DARE: of weight * first + (1 - weight) * second, merged in the values of A and B.
  ChildCosines add_child(std::string const& path, Index first, Index second, double weight);

  Index size() const { return static_cast<Index>(paths_.size()); }
  double product(Index i, Index j) const;
  /// NaN if one of the two is zero: a direction that does not exist has no angle.
  double cosine(Index i, Index j) const;

 private:
  struct Pair {
    Index i, j;
  };
  struct Blend {
    Index first, second;
    double weight;
  };
  std::vector<double> products(std::vector<Pair> const& pairs, Blend const* blend) const;
  void extend(Index before, std::vector<double> const& values);

  Communicator const* comm_;
  ParameterTable const* table_;
  Similarity similarity_;
  std::vector<std::string> paths_;
  std::vector<double> gram_;  // lower triangle by rows: entry (j, i <= j) at j (j + 1) / 2 + i
};

}  // namespace upit::upcycle
