// SPDX-License-Identifier: Apache-2.0
// Owns the products that a host build can time: of each of its libraries.
#include <array>

#include "backend.hpp"
#include "peak_products.hpp"

namespace upit::backend {
namespace {

template <void (*gemm)(Op, Op, Index, Index, Index, float, float const*, Index, float const*, Index, float,
                       float*, Index)>
void single(Exec const&, ProductShape const& s, float const* a, float const* b, float* c) {
  gemm(Op::none, Op::none, s.m, s.n, s.k, 1.0f, a, s.k, b, s.n, 0.0f, c, s.n);
}

#ifdef UPIT_HAS_ONEDNN
constexpr std::array<PeakProduct, 2> kSingle = {
    {{"OpenBLAS", single<gemm_blas>}, {"oneDNN", single<gemm_onednn>}}};
#else
constexpr std::array<PeakProduct, 1> kSingle = {{{"OpenBLAS", single<gemm_blas>}}};
#endif

#ifdef UPIT_HAS_ONEDNN_BF16
template <class TC, Bf16Kernel kernel>
void bf16(Exec const&, ProductShape const& s, float const* a, float const* b, float* c) {
  gemm_bf16(Op::none, Op::none, s.m, s.n, s.k, 1.0f, reinterpret_cast<bfloat16 const*>(a), s.k,
            reinterpret_cast<bfloat16 const*>(b), s.n, 0.0f, reinterpret_cast<TC*>(c), s.n, kernel);
}
constexpr std::array<PeakProduct, 4> kBf16 = {
    {{"oneDNN, fixed extents", bf16<bfloat16, Bf16Kernel::fixed>},
     {"oneDNN, any extents", bf16<bfloat16, Bf16Kernel::general>},
     {"oneDNN, fixed extents, results in fp32", bf16<float, Bf16Kernel::fixed>},
     {"oneDNN, any extents, results in fp32", bf16<float, Bf16Kernel::general>}}};
#endif

}  // namespace

std::span<PeakProduct const> peak_products(bool bf16) {
  if (!bf16) return kSingle;
#ifdef UPIT_HAS_ONEDNN_BF16
  if (bf16_products() != Bf16Products::none) return kBf16;
#endif
  return {};
}

}  // namespace upit::backend
