// SPDX-License-Identifier: Apache-2.0
// Owns the products that a device build can time: those of its one library.
#include <array>

#include "device_product.hpp"
#include "peak_products.hpp"

namespace upit::backend {
namespace {

template <Storage storage>
void product(Exec const& exec, ProductShape const& s, float const* a, float const* b, float* c) {
  Product p;
  p.m = s.m, p.n = s.n, p.k = s.k;
  p.A = a, p.lda = s.k;
  p.B = b, p.ldb = s.n;
  p.C = c, p.ldc = s.n;
  p.in = p.out = storage;
  multiply(exec, p);
}

}  // namespace

std::span<PeakProduct const> peak_products(bool bf16) {
  static std::array<PeakProduct, 1> const kSingle = {{{device_library(), product<Storage::f32>}}};
  static std::array<PeakProduct, 1> const kBf16 = {{{device_library(), product<Storage::bf16>}}};
  return bf16 ? kBf16 : kSingle;
}

}  // namespace upit::backend
