// SPDX-License-Identifier: Apache-2.0
// Owns the calls to hipBLAS: one handle for each stream, ended before Kokkos is.
#include <fmt/format.h>
#include <hipblas/hipblas-version.h>
#if hipblasVersionMajor >= 2
#define HIPBLAS_V2  // its current interface; from 3 on the only one
#endif
#include <hipblas/hipblas.h>

#include <limits>

#include "device_product.hpp"
#include "stream_handles.hpp"
#include "upit/core/error.hpp"
#include "upit/linalg/tf32.hpp"

namespace upit {
namespace backend {
namespace {

void check(hipblasStatus_t status, char const* call) {
  require(status == HIPBLAS_STATUS_SUCCESS,
          fmt::format("{} returned status {}", call, static_cast<int>(status)));
}

// Types of elements and of sums have names of HIP's own since hipBLAS 2, and are one enumeration before.
#if hipblasVersionMajor >= 2
using Type = hipDataType;
using Compute = hipblasComputeType_t;
constexpr Type kFloat = HIP_R_32F, kDouble = HIP_R_64F, kBfloat = HIP_R_16BF;
constexpr Compute kSumFloat = HIPBLAS_COMPUTE_32F, kSumDouble = HIPBLAS_COMPUTE_64F;
#else
using Type = hipblasDatatype_t;
using Compute = hipblasDatatype_t;
constexpr Type kFloat = HIPBLAS_R_32F, kDouble = HIPBLAS_R_64F, kBfloat = HIPBLAS_R_16B;
constexpr Compute kSumFloat = HIPBLAS_R_32F, kSumDouble = HIPBLAS_R_64F;
#endif

/// A handle bound to one stream, without atomics: sums keep their order from run to run.
class Handle {
 public:
  explicit Handle(Exec const& exec) : stream_(exec.hip_stream()) {
    check(hipblasCreate(&handle_), "hipblasCreate");
    check(hipblasSetStream(handle_, stream_), "hipblasSetStream");
    check(hipblasSetAtomicsMode(handle_, HIPBLAS_ATOMICS_NOT_ALLOWED), "hipblasSetAtomicsMode");
  }
  ~Handle() { hipblasDestroy(handle_); }
  Handle(Handle const&) = delete;
  Handle& operator=(Handle const&) = delete;

  bool serves(Exec const& exec) const { return exec.hip_stream() == stream_; }
  hipblasHandle_t get() const { return handle_; }

 private:
  hipblasHandle_t handle_ = nullptr;
  hipStream_t stream_;
};

/// hipBLAS counts in 32 bits.
int narrow(Index n) {
  expect(n <= std::numeric_limits<int>::max(), "gemm: an extent passes the 32-bit integers of hipBLAS");
  return static_cast<int>(n);
}

Type type_of(Storage storage) {
  return storage == Storage::f64 ? kDouble : storage == Storage::bf16 ? kBfloat : kFloat;
}
Compute compute_type(Storage in) { return in == Storage::f64 ? kSumDouble : kSumFloat; }
hipblasOperation_t flag(Op op) { return op == Op::none ? HIPBLAS_OP_N : HIPBLAS_OP_T; }

}  // namespace

void multiply(Exec const& exec, Product const& p) {
  hipblasHandle_t const handle = handle_of<Handle>(exec).get();
  Scalar const alpha(p.alpha, p.in), beta(p.beta, p.in);
  int const m = narrow(p.m), n = narrow(p.n), k = narrow(p.k);
  int const lda = narrow(p.lda), ldb = narrow(p.ldb), ldc = narrow(p.ldc);
  // hipBLAS is column-major: a row-major C = A B is its C^T = B^T A^T.
  if (p.batch == 1) {
    check(hipblasGemmEx(handle, flag(p.b), flag(p.a), n, m, k, alpha.address(), p.B, type_of(p.in), ldb, p.A,
                        type_of(p.in), lda, beta.address(), p.C, type_of(p.out), ldc, compute_type(p.in),
                        HIPBLAS_GEMM_DEFAULT),
          "hipblasGemmEx");
    return;
  }
  check(hipblasGemmStridedBatchedEx(handle, flag(p.b), flag(p.a), n, m, k, alpha.address(), p.B,
                                    type_of(p.in), ldb, p.stride_b, p.A, type_of(p.in), lda, p.stride_a,
                                    beta.address(), p.C, type_of(p.out), ldc, p.stride_c, narrow(p.batch),
                                    compute_type(p.in), HIPBLAS_GEMM_DEFAULT),
        "hipblasGemmStridedBatchedEx");
}

/// hipBLAS has a call for groups in its newest versions only.
void multiply_each(Exec const& exec, std::span<Product const> products) {
  for (Product const& p : products) multiply(exec, p);
}

std::string_view device_library() { return "hipBLAS"; }

}  // namespace backend

bool has_tf32() { return false; }

}  // namespace upit
