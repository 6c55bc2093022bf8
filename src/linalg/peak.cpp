// SPDX-License-Identifier: Apache-2.0
// Owns the timing of products for the ceiling, of every build.
#include "upit/linalg/peak.hpp"

#include <algorithm>
#include <limits>

#include "peak_products.hpp"
#include "upit/core/error.hpp"
#include "upit/core/timer.hpp"

namespace upit {
namespace {

/// Values in (-1/2, 1/2) that differ: a processor draws less power for equal ones, and may then run faster.
template <class T>
void scatter_values(T* to, Index n) {
  Kokkos::parallel_for(
      "upit::gemm_peak_values", Kokkos::RangePolicy<Exec, Kokkos::IndexType<Index>>(0, n),
      KOKKOS_LAMBDA(Index const i) {
        auto const mixed = (static_cast<std::uint32_t>(i) * 2654435761U) >> 16;
        to[i] = T(static_cast<float>(mixed) / 65536.0f - 0.5f);
      });
}

void scatter_values(View1<float> const& buffer, bool bf16) {
  auto const n = static_cast<Index>(buffer.extent(0));
  if (bf16) {
    scatter_values(reinterpret_cast<bfloat16*>(buffer.data()), 2 * n);
  } else {
    scatter_values(buffer.data(), n);
  }
}

/// Products between two fences, which on a device cost as much as a small product.
constexpr int kInARow = std::is_same_v<Exec, HostExec> ? 1 : 8;

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
  scatter_values(a_, bf16);
  scatter_values(b_, bf16);
  Exec().fence();
}

std::vector<std::string_view> GemmPeak::libraries() const {
  std::vector<std::string_view> names;
  for (auto const& product : backend::peak_products(bf16_)) names.push_back(product.library);
  return names;
}

double GemmPeak::measure(Index library, ProductShape const& s, Index repeats) const {
  auto const products = backend::peak_products(bf16_);
  expect(library >= 0 && library < std::ssize(products), "there is no such BLAS");
  expect(s.m * s.k <= a_.extent_int(0) && s.k * s.n <= b_.extent_int(0) && s.m * s.n <= c_.extent_int(0),
         "a product passes the buffers");
  auto const multiply = products[static_cast<std::size_t>(library)].multiply;
  Exec const exec;
  double best = std::numeric_limits<double>::infinity();
  for (Index r = 0; r < repeats; ++r) {
    exec.fence();
    Stopwatch const watch;
    for (int i = 0; i < kInARow; ++i) multiply(exec, s, a_.data(), b_.data(), c_.data());
    exec.fence();
    best = std::min(best, watch.seconds() / kInARow);
  }
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k) / best * 1e-9;
}

}  // namespace upit
