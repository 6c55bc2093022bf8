// SPDX-License-Identifier: Apache-2.0
// Owns the profiling region of a product of matrices, and the label that tells its shape.
#pragma once

#include <Kokkos_Core.hpp>

#include <optional>
#include <string>
#include <string_view>

#include "upit/core/index.hpp"

namespace upit {

/// "upit::gemm 2048x1376x512 nt": m, n, k, and whether A and B are transposed (t) or not (n). With groups
/// "upit::grouped_gemm 8: 4096x1376x512 nt", m then being the rows of all groups, or k in
/// "upit::grouped_gemm_transposed".
std::string product_label(std::string_view function, Index groups, Index m, Index n, Index k,
                          bool a_transposed, bool b_transposed);

/// What `product_label` wrote.
struct ProductExtents {
  Index groups = 0, m = 0, n = 0, k = 0;
  bool grouped_c = false;  // each group has its own C, not its own B

  double flops() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
};
/// Nothing if the label is another's.
std::optional<ProductExtents> read_product_label(std::string_view label);

/// The region of a product, whose label carries its shape. Without a listener it costs one question.
class ProductRegion {
 public:
  /// `groups` = 0: one product.
  ProductRegion(std::string_view function, Index groups, Index m, Index n, Index k, bool a_transposed,
                bool b_transposed)
      : heard_(Kokkos::Tools::profileLibraryLoaded()) {
    if (!heard_) return;
    std::string const label = product_label(function, groups, m, n, k, a_transposed, b_transposed);
    Kokkos::Profiling::pushRegion(label);
  }
  ~ProductRegion() {
    if (heard_) Kokkos::Profiling::popRegion();
  }
  ProductRegion(ProductRegion const&) = delete;
  ProductRegion& operator=(ProductRegion const&) = delete;

 private:
  bool heard_;
};

}  // namespace upit
