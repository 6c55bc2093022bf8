// SPDX-License-Identifier: Apache-2.0
#include "upit/core/product_region.hpp"

#include <fmt/format.h>

#include <charconv>

namespace upit {

std::string product_label(std::string_view function, Index groups, Index m, Index n, Index k,
                          bool a_transposed, bool b_transposed) {
  return fmt::format("{} {}{}x{}x{} {}{}", function, groups > 0 ? fmt::format("{}: ", groups) : "", m, n, k,
                     a_transposed ? 't' : 'n', b_transposed ? 't' : 'n');
}

std::optional<ProductExtents> read_product_label(std::string_view label) {
  constexpr std::string_view kOne = "upit::gemm ", kGrouped = "upit::grouped_gemm";
  if (!label.starts_with(kOne) && !label.starts_with(kGrouped)) return std::nullopt;
  ProductExtents out;
  out.grouped_c = label.starts_with("upit::grouped_gemm_transposed");
  std::size_t const colon = label.find(": ");
  char const* next = label.data() + label.find(' ') + 1;
  char const* const end = label.data() + label.size();
  auto const read = [&](Index& extent) {
    auto const [after, failure] = std::from_chars(next, end, extent);
    next = after + 1;
    return failure == std::errc() && after != end;
  };
  if (colon != std::string_view::npos) {
    if (!read(out.groups)) return std::nullopt;
    next = label.data() + colon + 2;
  }
  if (!read(out.m) || !read(out.n) || !read(out.k)) return std::nullopt;
  return out;
}

}  // namespace upit
