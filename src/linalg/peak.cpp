// SPDX-License-Identifier: Apache-2.0
#include "upit/linalg/peak.hpp"

#include <algorithm>
#include <limits>

#include "backend.hpp"
#include "upit/core/error.hpp"
#include "upit/core/timer.hpp"

namespace upit {
namespace {

using Product = void (*)(Op, Op, Index, Index, Index, float, float const*, Index, float const*, Index, float,
                         float*, Index);

#ifdef UPIT_HAS_ONEDNN
constexpr std::array<std::string_view, 2> kNames = {"OpenBLAS", "oneDNN"};
constexpr std::array<Product, 2> kProducts = {backend::gemm_blas, backend::gemm_onednn};
#else
constexpr std::array<std::string_view, 1> kNames = {"OpenBLAS"};
constexpr std::array<Product, 1> kProducts = {backend::gemm_blas};
#endif

}  // namespace

GemmPeak::GemmPeak(std::span<ProductShape const> shapes) {
  Index a = 0, b = 0, c = 0;
  for (auto const& s : shapes) {
    a = std::max(a, s.m * s.k);
    b = std::max(b, s.k * s.n);
    c = std::max(c, s.m * s.n);
  }
  a_ = View1<float>("upit::gemm_peak.a", a);
  b_ = View1<float>("upit::gemm_peak.b", b);
  c_ = View1<float>("upit::gemm_peak.c", c);
  Kokkos::deep_copy(a_, 0.5f);
  Kokkos::deep_copy(b_, 0.25f);
}

std::span<std::string_view const> GemmPeak::libraries() { return kNames; }

double GemmPeak::measure(Index library, ProductShape const& s, Index repeats) const {
  expect(library >= 0 && library < static_cast<Index>(kProducts.size()), "there is no such BLAS");
  expect(s.m * s.k <= a_.extent_int(0) && s.k * s.n <= b_.extent_int(0) && s.m * s.n <= c_.extent_int(0),
         "a product passes the buffers");
  Product const product = kProducts[static_cast<std::size_t>(library)];
  double best = std::numeric_limits<double>::infinity();
  for (Index r = 0; r < repeats; ++r) {
    Stopwatch const watch;
    product(Op::none, Op::none, s.m, s.n, s.k, 1.0f, a_.data(), s.k, b_.data(), s.n, 0.0f, c_.data(), s.n);
    best = std::min(best, watch.seconds());
  }
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k) / best * 1e-9;
}

}  // namespace upit
