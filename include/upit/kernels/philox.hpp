// SPDX-License-Identifier: Apache-2.0
// Owns Philox 4x32 in the form that loops over counters vectorise in.
#pragma once

#include <Kokkos_Core.hpp>

#include <cstdint>

namespace upit::kernels {

/// Philox 4x32 (Salmon et al. 2011) on words in the lower halves of 64 bits, which vector units multiply as
/// they are; Random123's 32-bit words cost GCC's vectors five times as much. The upper halves of b and d are
/// left as they come: products mask what they take. Ten rounds give the words of `random_bits`.
template <int kRounds>
KOKKOS_FORCEINLINE_FUNCTION void philox(std::uint64_t& a, std::uint64_t& b, std::uint64_t& c,
                                        std::uint64_t& d, std::uint32_t low, std::uint32_t high) {
  if constexpr (kRounds > 0) {
    constexpr std::uint64_t kLower = 0xffffffff;
    std::uint64_t const p = (a & kLower) * 0xD2511F53, q = (c & kLower) * 0xCD9E8D57;
    a = (q >> 32) ^ b ^ low;
    b = q;
    c = (p >> 32) ^ d ^ high;
    d = p;
    philox<kRounds - 1>(a, b, c, d, low + 0x9E3779B9u, high + 0xBB67AE85u);
  }
}

}  // namespace upit::kernels
