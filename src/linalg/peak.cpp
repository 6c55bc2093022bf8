// SPDX-License-Identifier: Apache-2.0
#include "upit/linalg/peak.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "backend.hpp"
#include "upit/core/error.hpp"
#include "upit/core/timer.hpp"

namespace upit {
namespace {

using Product = void (*)(ProductShape const&, float const*, float const*, float*);

template <void (*gemm)(Op, Op, Index, Index, Index, float, float const*, Index, float const*, Index, float,
                       float*, Index)>
void single(ProductShape const& s, float const* a, float const* b, float* c) {
  gemm(Op::none, Op::none, s.m, s.n, s.k, 1.0f, a, s.k, b, s.n, 0.0f, c, s.n);
}

#ifdef UPIT_HAS_ONEDNN
constexpr std::array<std::string_view, 2> kNames = {"OpenBLAS", "oneDNN"};
constexpr std::array<Product, 2> kProducts = {single<backend::gemm_blas>, single<backend::gemm_onednn>};
#else
constexpr std::array<std::string_view, 1> kNames = {"OpenBLAS"};
constexpr std::array<Product, 1> kProducts = {single<backend::gemm_blas>};
#endif

#ifdef UPIT_HAS_ONEDNN_BF16
template <class TC, backend::Bf16Kernel kernel>
void half(ProductShape const& s, float const* a, float const* b, float* c) {
  backend::gemm_bf16(Op::none, Op::none, s.m, s.n, s.k, 1.0f, reinterpret_cast<bfloat16 const*>(a), s.k,
                     reinterpret_cast<bfloat16 const*>(b), s.n, 0.0f, reinterpret_cast<TC*>(c), s.n, kernel);
}
constexpr std::array<std::string_view, 4> kHalfNames = {"oneDNN, fixed extents", "oneDNN, any extents",
                                                        "oneDNN, fixed extents, results in fp32",
                                                        "oneDNN, any extents, results in fp32"};
constexpr std::array<Product, 4> kHalfProducts = {
    half<bfloat16, backend::Bf16Kernel::fixed>, half<bfloat16, backend::Bf16Kernel::general>,
    half<float, backend::Bf16Kernel::fixed>, half<float, backend::Bf16Kernel::general>};
#else
constexpr std::array<std::string_view, 0> kHalfNames = {};
constexpr std::array<Product, 0> kHalfProducts = {};
#endif

/// A float whose halves are both `value` as bfloat16.
float twice(float value) {
  bfloat16 const pair[2] = {bfloat16(value), bfloat16(value)};
  float out = 0.0f;
  std::memcpy(&out, pair, sizeof(out));
  return out;
}

}  // namespace

GemmPeak::GemmPeak(std::span<ProductShape const> shapes, bool bf16) : bf16_(bf16) {
  Index a = 0, b = 0, c = 0;
  for (auto const& s : shapes) {
    a = std::max(a, s.m * s.k);
    b = std::max(b, s.k * s.n);
    c = std::max(c, s.m * s.n);
  }
  a_ = View1<float>("upit::gemm_peak.a", a);
  b_ = View1<float>("upit::gemm_peak.b", b);
  c_ = View1<float>("upit::gemm_peak.c", c);
  Kokkos::deep_copy(a_, bf16 ? twice(0.5f) : 0.5f);
  Kokkos::deep_copy(b_, bf16 ? twice(0.25f) : 0.25f);
}

std::span<std::string_view const> GemmPeak::libraries() const {
  if (!bf16_) return kNames;
  if (bf16_products() == Bf16Products::none) return {};
  return kHalfNames;
}

double GemmPeak::measure(Index library, ProductShape const& s, Index repeats) const {
  expect(library >= 0 && library < std::ssize(libraries()), "there is no such BLAS");
  expect(s.m * s.k <= a_.extent_int(0) && s.k * s.n <= b_.extent_int(0) && s.m * s.n <= c_.extent_int(0),
         "a product passes the buffers");
  auto const number = static_cast<std::size_t>(library);
  std::span<Product const> const products = bf16_ ? std::span<Product const>(kHalfProducts) : kProducts;
  Product const product = products[number];
  double best = std::numeric_limits<double>::infinity();
  for (Index r = 0; r < repeats; ++r) {
    Stopwatch const watch;
    product(s, a_.data(), b_.data(), c_.data());
    best = std::min(best, watch.seconds());
  }
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k) / best * 1e-9;
}

}  // namespace upit
