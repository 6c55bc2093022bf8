// SPDX-License-Identifier: Apache-2.0
// Owns the private interface between gemm_device.cpp and the vendor's library of a device build.
#pragma once

#include <string_view>

#include "upit/linalg/gemm.hpp"

namespace upit::backend {

/// How elements are stored. Sums are taken in fp64 for f64, else in fp32.
enum class Storage { f32, f64, bf16 };

template <class T>
constexpr Storage storage_of();
template <>
constexpr Storage storage_of<float>() {
  return Storage::f32;
}
template <>
constexpr Storage storage_of<double>() {
  return Storage::f64;
}
template <>
constexpr Storage storage_of<bfloat16>() {
  return Storage::bf16;
}

/// C_i = alpha op(A_i) op(B_i) + beta C_i, row-major. Extents are positive, leading dimensions long enough:
/// the caller has checked them.
struct Product {
  Op a = Op::none, b = Op::none;
  Index m = 0, n = 0, k = 0;
  double alpha = 1.0, beta = 0.0;
  void const* A = nullptr;
  Index lda = 0, stride_a = 0;
  void const* B = nullptr;
  Index ldb = 0, stride_b = 0;
  void* C = nullptr;
  Index ldc = 0, stride_c = 0;
  Index batch = 1;
  Storage in = Storage::f32, out = Storage::f32;
};

/// Enqueues it on the stream of `exec`. Throws `Error` with the library's status if it refuses.
void multiply(Exec const& exec, Product const& product);

/// Name of the library, for reports.
std::string_view device_library();

}  // namespace upit::backend
