// SPDX-License-Identifier: Apache-2.0
// Owns the private interface between peak.cpp and the builds: which products can be timed.
#pragma once

#include <span>
#include <string_view>

#include "upit/linalg/peak.hpp"

namespace upit::backend {

/// C = A B by one library; operands of 16 bits lie two to a float.
struct PeakProduct {
  std::string_view library;
  void (*multiply)(Exec const& exec, ProductShape const& shape, float const* a, float const* b, float* c);
};

/// Of float operands or of bfloat16 operands; none where this build has no such products.
std::span<PeakProduct const> peak_products(bool bf16);

}  // namespace upit::backend
