// SPDX-License-Identifier: Apache-2.0
// Owns the matrix of inner products and the cosines read from it.
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "upit/core/error.hpp"
#include "upit/upcycle/similarity.hpp"

namespace upit::upcycle {
namespace {

/// One root of the product: equal experts then have cosine 1 exactly.
double cosine_of(double product, double squared_x, double squared_y) {
  double const norms = squared_x * squared_y;
  return norms > 0.0 ? product / std::sqrt(norms) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

Similarity parse_similarity(std::string_view text) {
  if (text == "task_vector") return Similarity::task_vector;
  require(text == "weights",
          fmt::format("expand.similarity: found \"{}\", allowed: \"task_vector\", \"weights\"", text));
  return Similarity::weights;
}

double GramMatrix::product(Index i, Index j) const {
  if (i > j) std::swap(i, j);
  expect(i >= 0 && j < size_, "GramMatrix: an expert that is there");
  return values_[static_cast<std::size_t>(j * (j + 1) / 2 + i)];
}

double GramMatrix::cosine(Index i, Index j) const {
  return cosine_of(product(i, j), product(i, i), product(j, j));
}

ChildCosines GramMatrix::blend(Index first, Index second, double weight) const {
  double const w = weight, v = 1.0 - weight;
  double const with_first = w * product(first, first) + v * product(first, second);
  double const with_second = w * product(first, second) + v * product(second, second);
  double const squared = w * with_first + v * with_second;
  return {cosine_of(with_first, squared, product(first, first)),
          cosine_of(with_second, squared, product(second, second))};
}

void GramMatrix::append(std::vector<double> const& products) {
  values_.insert(values_.end(), products.begin(), products.end());
  while ((size_ + 1) * (size_ + 2) / 2 <= static_cast<Index>(values_.size())) ++size_;
  expect(size_ * (size_ + 1) / 2 == static_cast<Index>(values_.size()), "GramMatrix: whole rows");
}

void require_finite(GramMatrix const& gram, std::vector<std::string> const& paths, Index before) {
  for (Index j = before; j < gram.size(); ++j) {
    require(std::isfinite(gram.product(j, j)),
            paths[static_cast<std::size_t>(j)] + ": the expert has values that are not finite");
  }
}

}  // namespace upit::upcycle
