// SPDX-License-Identifier: Apache-2.0
// Owns the private interface between gemm_device.cpp and the vendor's library of a device build.
#pragma once

#include <span>
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

/// alpha or beta where BLAS looks for it: in the type of the sums.
class Scalar {
 public:
  Scalar(double value, Storage in) : wide_(value), narrow_(static_cast<float>(value)), in_(in) {}
  void const* address() const { return in_ == Storage::f64 ? static_cast<void const*>(&wide_) : &narrow_; }

 private:
  double wide_;
  float narrow_;
  Storage in_;
};

/// Enqueues it on the stream of `exec`. Throws `Error` with the library's status if it refuses.
void multiply(Exec const& exec, Product const& product);

/// As many products as `multiply_each` takes.
inline constexpr Index kMostOfAKind = 16;

/// Enqueues products that differ in extents and addresses only, each with batch 1: in one call where the
/// library has one for their types and they are so small that it gains, else one after the other.
void multiply_each(Exec const& exec, std::span<Product const> products);

/// Name of the library, for reports.
std::string_view device_library();

}  // namespace upit::backend
