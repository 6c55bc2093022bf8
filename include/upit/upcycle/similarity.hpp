// SPDX-License-Identifier: Apache-2.0
// Owns the similarity of experts: inner products over all layers, the cosines that follow, and how the
// products of LoRA experts on disk are found.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/model/parameters.hpp"

namespace upit::upcycle {

/// What a cosine compares (deck: expand.similarity).
///   task_vector  LoRA: the products (alpha/r) B A of all layers and of gate, up and down; B starts at zero,
///   so
///                the product is the whole task vector and alpha/r cancels. FFN: values minus those of the
///                base
///   weights      the values of A and B, or of the FFNs, as they are
enum class Similarity { task_vector, weights };

/// "task_vector" | "weights"; throws `Error` for others.
Similarity parse_similarity(std::string_view text);

/// Cosines of a child with its two parents.
struct ChildCosines {
  double first = 0.0, second = 0.0;
};

/// Inner products of experts that have been found, in double.
class GramMatrix {
 public:
  Index size() const { return size_; }
  double product(Index i, Index j) const;
  /// NaN if one of the two is zero: a direction that does not exist has no angle.
  double cosine(Index i, Index j) const;
  /// Cosines of weight * first + (1 - weight) * second with the two.
  ChildCosines blend(Index first, Index second, double weight) const;
  /// Adds experts: for each, its products with experts 0, 1, ... and, last, itself.
  void append(std::vector<double> const& products);

 private:
  Index size_ = 0;
  std::vector<double> values_;  // lower triangle by rows: entry (j, i <= j) at j (j + 1) / 2 + i
};

/// Throws `Error` naming the file if experts [before, gram.size()), whose files are `paths`, hold values that
/// are not finite.
void require_finite(GramMatrix const& gram, std::vector<std::string> const& paths, Index before);

/// Inner products of LoRA experts, one expert a file, in double. <B1 A1, B2 A2> = sum((B1^T B2) o (A1 A2^T)):
/// r x r factors, never d x f. The work comes in pieces, a matrix (gate, up, down) of a layer each, which are
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
  double product(Index i, Index j) const { return gram_.product(i, j); }
  double cosine(Index i, Index j) const { return gram_.cosine(i, j); }

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
  GramMatrix gram_;
};

}  // namespace upit::upcycle
