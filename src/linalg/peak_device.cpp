// SPDX-License-Identifier: Apache-2.0
// Owns the ceiling of a device build: products of its one library.
#include <algorithm>
#include <limits>

#include "device_product.hpp"
#include "upit/core/error.hpp"
#include "upit/core/timer.hpp"
#include "upit/linalg/peak.hpp"

namespace upit {

namespace {

/// Values in (-1/2, 1/2) that differ: a device draws less power for equal ones, and then runs faster.
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

std::span<std::string_view const> GemmPeak::libraries() const {
  static std::array<std::string_view, 1> const kNames = {backend::device_library()};
  return kNames;
}

double GemmPeak::measure(Index library, ProductShape const& s, Index repeats) const {
  expect(library == 0, "there is no such BLAS");
  expect(s.m * s.k <= a_.extent_int(0) && s.k * s.n <= b_.extent_int(0) && s.m * s.n <= c_.extent_int(0),
         "a product passes the buffers");
  backend::Product p;
  p.m = s.m, p.n = s.n, p.k = s.k;
  p.A = a_.data(), p.lda = s.k;
  p.B = b_.data(), p.ldb = s.n;
  p.C = c_.data(), p.ldc = s.n;
  if (bf16_) p.in = p.out = backend::Storage::bf16;
  constexpr int kInARow = 8;  // between two fences, which cost as much as a small product
  Exec const exec;
  double best = std::numeric_limits<double>::infinity();
  for (Index r = 0; r < repeats; ++r) {
    exec.fence();
    Stopwatch const watch;
    for (int i = 0; i < kInARow; ++i) backend::multiply(exec, p);
    exec.fence();
    best = std::min(best, watch.seconds() / kInARow);
  }
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k) / best * 1e-9;
}

}  // namespace upit
