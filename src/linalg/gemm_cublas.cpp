// SPDX-License-Identifier: Apache-2.0
// Owns the calls to cuBLAS: one handle and one workspace for each stream, ended before Kokkos is.
#include <cublas_v2.h>
#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "device_product.hpp"
#include "upit/core/error.hpp"
#include "upit/linalg/tf32.hpp"

namespace upit {
namespace backend {
namespace {

void check(cublasStatus_t status, char const* call) {
  require(status == CUBLAS_STATUS_SUCCESS, fmt::format("{}: {}", call, cublasGetStatusString(status)));
}

/// A handle bound to one stream. Its workspace is ours: cuBLAS then allocates nothing in a step, and the
/// choice of algorithm cannot depend on what other streams do.
class Handle {
 public:
  explicit Handle(Exec const& exec)
      : stream_(exec.cuda_stream()),
        workspace_(Kokkos::view_alloc("upit::cublas.workspace", Kokkos::WithoutInitializing),
                   kWorkspaceBytes + kAlignment) {
    check(cublasCreate(&handle_), "cublasCreate");
    check(cublasSetStream(handle_, stream_), "cublasSetStream");
    // After the stream: setting that brings cuBLAS' own workspace back.
    auto const address = reinterpret_cast<std::uintptr_t>(workspace_.data());
    std::size_t const skip = (kAlignment - address % kAlignment) % kAlignment;
    check(cublasSetWorkspace(handle_, workspace_.data() + skip, kWorkspaceBytes), "cublasSetWorkspace");
    check(cublasSetAtomicsMode(handle_, CUBLAS_ATOMICS_NOT_ALLOWED), "cublasSetAtomicsMode");
    auto const mode =
        static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    check(cublasSetMathMode(handle_, mode), "cublasSetMathMode");
  }
  ~Handle() { cublasDestroy(handle_); }
  Handle(Handle const&) = delete;
  Handle& operator=(Handle const&) = delete;

  cudaStream_t stream() const { return stream_; }
  cublasHandle_t get() const { return handle_; }

 private:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what NVIDIA advises for Hopper
  static constexpr std::size_t kAlignment = 256;                         // Kokkos' own is 128
  cublasHandle_t handle_ = nullptr;
  cudaStream_t stream_;
  View1<char> workspace_;
};

/// The handle of the stream of `exec`, made at its first product. Products are asked for by one host thread.
cublasHandle_t handle_of(Exec const& exec) {
  static std::vector<std::unique_ptr<Handle>> handles;
  for (auto const& h : handles) {
    if (h->stream() == exec.cuda_stream()) return h->get();
  }
  if (handles.empty()) Kokkos::push_finalize_hook([] { handles.clear(); });  // its Views end before Kokkos
  handles.push_back(std::make_unique<Handle>(exec));
  return handles.back()->get();
}

cudaDataType type_of(Storage storage) {
  switch (storage) {
    case Storage::f64:
      return CUDA_R_64F;
    case Storage::bf16:
      return CUDA_R_16BF;
    case Storage::f32:
      break;
  }
  return CUDA_R_32F;
}

cublasComputeType_t compute_type(Storage in) {
  if (in == Storage::f64) return CUBLAS_COMPUTE_64F;
  return in == Storage::f32 && tf32_allowed() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

cublasOperation_t flag(Op op) { return op == Op::none ? CUBLAS_OP_N : CUBLAS_OP_T; }

}  // namespace

void multiply(Exec const& exec, Product const& p) {
  cublasHandle_t const handle = handle_of(exec);
  bool const wide = p.in == Storage::f64;  // alpha and beta have the type of the sums
  float const alpha32 = static_cast<float>(p.alpha), beta32 = static_cast<float>(p.beta);
  void const* const alpha = wide ? static_cast<void const*>(&p.alpha) : &alpha32;
  void const* const beta = wide ? static_cast<void const*>(&p.beta) : &beta32;
  cublasComputeType_t const compute = compute_type(p.in);
  // cuBLAS is column-major: a row-major C = A B is its C^T = B^T A^T.
  if (p.batch == 1) {
    check(
        cublasGemmEx_64(handle, flag(p.b), flag(p.a), p.n, p.m, p.k, alpha, p.B, type_of(p.in), p.ldb, p.A,
                        type_of(p.in), p.lda, beta, p.C, type_of(p.out), p.ldc, compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
    return;
  }
  check(
      cublasGemmStridedBatchedEx_64(handle, flag(p.b), flag(p.a), p.n, p.m, p.k, alpha, p.B, type_of(p.in),
                                    p.ldb, p.stride_b, p.A, type_of(p.in), p.lda, p.stride_a, beta, p.C,
                                    type_of(p.out), p.ldc, p.stride_c, p.batch, compute, CUBLAS_GEMM_DEFAULT),
      "cublasGemmStridedBatchedEx");
}

std::string_view device_library() { return "cuBLAS"; }

}  // namespace backend

bool has_tf32() { return Exec().cuda_device_prop().major >= 8; }

}  // namespace upit
