// SPDX-License-Identifier: Apache-2.0
// Owns the record of an expansion: who descends from whom, and how alike the experts are.
#pragma once

#include <string>
#include <vector>

#include "upit/core/console.hpp"
#include "upit/upcycle/similarity.hpp"

namespace upit::upcycle {

/// An expert made of two others: theta_base + weight DARE(first) + (1 - weight) DARE(second).
struct Child {
  Index number = 0;             // of the expert; parents have lower ones
  Index first = 0, second = 0;  // parents, first < second
  double weight = 0.0;          // of the first
  double similarity = 0.0;      // cosine of the parents
  ChildCosines masked;          // of the child with its parents
  ChildCosines unmasked;        // the same had nothing been dropped
};

struct Family {
  std::vector<std::string> names;  // of all experts, checkpoints first, as their files are named
  Index checkpoints = 0;           // m
  Index base_is = -1;              // the base among them, or -1
  std::vector<Child> children;
  std::vector<double> similarity;  // (n, n) cosines; NaN beside an expert without a direction
};

/// Children with parents, weights and cosines; the matrix; NaN is null.
std::string family_json(Family const& family, std::string const& strategy, std::string const& similarity,
                        double drop);

/// A line and a column an expert.
std::string similarity_csv(Family const& family);

/// One row a child.
Table family_table(Family const& family);

}  // namespace upit::upcycle
