// SPDX-License-Identifier: Apache-2.0
// Owns the calls to cuBLAS: one handle and one workspace for each stream, ended before Kokkos is.
#include <cublas_v2.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "device_product.hpp"
#include "stream_handles.hpp"
#include "upit/core/error.hpp"
#include "upit/linalg/tf32.hpp"

namespace upit {
namespace backend {
namespace {

void check(cublasStatus_t status, char const* call) {
  require(status == CUBLAS_STATUS_SUCCESS, fmt::format("{}: {}", call, cublasGetStatusString(status)));
}

void check_cuda(cudaError_t status, char const* call) {
  require(status == cudaSuccess, fmt::format("{}: {}", call, cudaGetErrorString(status)));
}

/// A handle bound to one stream. Its workspace is ours: cuBLAS then allocates nothing in a step, and the
/// choice of algorithm cannot depend on what other streams do.
class Handle {
 public:
  explicit Handle(Exec const& exec)
      : stream_(exec.cuda_stream()),
        workspace_(Kokkos::view_alloc("upit::cublas.workspace", Kokkos::WithoutInitializing),
                   kWorkspaceBytes + kAlignment),
        addresses_("upit::cublas.addresses", 3 * kMostOfAKind) {
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

  bool serves(Exec const& exec) const { return exec.cuda_stream() == stream_; }
  cublasHandle_t get() const { return handle_; }
  /// On the device, for the addresses of `multiply_each`.
  void const** addresses() const { return reinterpret_cast<void const**>(addresses_.data()); }

 private:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what NVIDIA advises for Hopper
  static constexpr std::size_t kAlignment = 256;                         // Kokkos' own is 128
  cublasHandle_t handle_ = nullptr;
  cudaStream_t stream_;
  View1<char> workspace_;
  View1<std::uintptr_t> addresses_;  // void const*: a View takes no such elements
};

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
  cublasHandle_t const handle = handle_of<Handle>(exec).get();
  Scalar const alpha(p.alpha, p.in), beta(p.beta, p.in);
  cublasComputeType_t const compute = compute_type(p.in);
  // cuBLAS is column-major: a row-major C = A B is its C^T = B^T A^T.
  if (p.batch == 1) {
    check(cublasGemmEx_64(handle, flag(p.b), flag(p.a), p.n, p.m, p.k, alpha.address(), p.B, type_of(p.in),
                          p.ldb, p.A, type_of(p.in), p.lda, beta.address(), p.C, type_of(p.out), p.ldc,
                          compute, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
    return;
  }
  check(cublasGemmStridedBatchedEx_64(handle, flag(p.b), flag(p.a), p.n, p.m, p.k, alpha.address(), p.B,
                                      type_of(p.in), p.ldb, p.stride_b, p.A, type_of(p.in), p.lda, p.stride_a,
                                      beta.address(), p.C, type_of(p.out), p.ldc, p.stride_c, p.batch,
                                      compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

#if CUBLAS_VERSION >= 120500  // before, and for 16-bit operands with fp32 results, there is no grouped call
namespace {

/// Written by a kernel that has it as its argument (432 bytes, below the 512 from which Kokkos 3.4 puts
/// arguments into constant memory, and waits): a copy would need pinned memory that no earlier copy still
/// reads.
struct Addresses {
  void const* of[3 * kMostOfAKind] = {};
};

void write_addresses(Exec const& exec, Addresses const& from, void const** to) {
  Kokkos::parallel_for(
      "upit::grouped_gemm_addresses", Kokkos::RangePolicy<Exec>(exec, 0, 3 * kMostOfAKind),
      KOKKOS_LAMBDA(int const i) { to[i] = from.of[i]; });
}

/// Whether each of them leaves most of the device idle. cuBLAS' grouped kernels are slower than those of
/// single products, so that products which fill a quarter of the multiprocessors with tiles of 128 x 128 are
/// better off alone; no device has been asked where the line is.
bool all_small(std::span<Product const> products) {
  static int const multiprocessors = [] {
    int device = 0, count = 0;
    check_cuda(cudaGetDevice(&device), "cudaGetDevice");
    check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
               "cudaDeviceGetAttribute");
    return count;
  }();
  constexpr Index kTile = 128;
  auto const tiles = [](Index extent) { return (extent + kTile - 1) / kTile; };
  return std::all_of(products.begin(), products.end(),
                     [&](Product const& p) { return 4 * tiles(p.m) * tiles(p.n) < multiprocessors; });
}

/// cuBLAS picks the width of its loads by extents, and cannot look at addresses that lie on the device: those
/// it gets must be aligned to its widest loads.
bool all_aligned(std::span<Product const> products) {
  constexpr std::uintptr_t kWidest = 16;
  return std::all_of(products.begin(), products.end(), [](Product const& p) {
    return (reinterpret_cast<std::uintptr_t>(p.A) | reinterpret_cast<std::uintptr_t>(p.B) |
            reinterpret_cast<std::uintptr_t>(p.C)) %
               kWidest ==
           0;
  });
}

void multiply_together(Exec const& exec, std::span<Product const> products) {
  Handle const& handle = handle_of<Handle>(exec);
  Product const& any = products.front();
  constexpr auto kMost = static_cast<std::size_t>(kMostOfAKind);
  std::array<cublasOperation_t, kMost> op_a, op_b;
  std::array<std::int64_t, kMost> m, n, k, lda, ldb, ldc, one;
  std::array<double, kMost> alpha, beta;  // floats where sums are
  Addresses addresses;
  op_a.fill(flag(any.a)), op_b.fill(flag(any.b));
  lda.fill(any.lda), ldb.fill(any.ldb), ldc.fill(any.ldc), one.fill(1);
  Scalar const alpha_of_all(any.alpha, any.in), beta_of_all(any.beta, any.in);
  std::size_t const bytes = any.in == Storage::f64 ? sizeof(double) : sizeof(float);
  for (std::size_t e = 0; e < products.size(); ++e) {
    Product const& p = products[e];
    m[e] = p.m, n[e] = p.n, k[e] = p.k;
    std::memcpy(reinterpret_cast<char*>(alpha.data()) + e * bytes, alpha_of_all.address(), bytes);
    std::memcpy(reinterpret_cast<char*>(beta.data()) + e * bytes, beta_of_all.address(), bytes);
    addresses.of[e] = p.A;
    addresses.of[kMost + e] = p.B;
    addresses.of[2 * kMost + e] = p.C;
  }
  void const** const on_device = handle.addresses();
  write_addresses(exec, addresses, on_device);
  // Column-major, as above: n before m, B before A.
  check(cublasGemmGroupedBatchedEx_64(handle.get(), op_b.data(), op_a.data(), n.data(), m.data(), k.data(),
                                      alpha.data(), on_device + kMost, type_of(any.in), ldb.data(), on_device,
                                      type_of(any.in), lda.data(), beta.data(),
                                      const_cast<void* const*>(on_device + 2 * kMost), type_of(any.out),
                                      ldc.data(), std::ssize(products), one.data(), compute_type(any.in)),
        "cublasGemmGroupedBatchedEx");
}

}  // namespace
#endif

void multiply_each(Exec const& exec, std::span<Product const> products) {
  expect(std::ssize(products) <= kMostOfAKind, "multiply_each: too many products");
#if CUBLAS_VERSION >= 120500
  if (products.size() > 1 && products.front().in == products.front().out && all_small(products) &&
      all_aligned(products)) {
    multiply_together(exec, products);
    return;
  }
#endif
  for (Product const& p : products) multiply(exec, p);
}

std::string_view device_library() { return "cuBLAS"; }

}  // namespace backend

bool has_tf32() { return Exec().cuda_device_prop().major >= 8; }

}  // namespace upit
