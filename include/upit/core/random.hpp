// SPDX-License-Identifier: Apache-2.0
// Owns random numbers: Philox 4x32-10 counters keyed by what a number means, never by rank or thread.
#pragma once

#if defined(__HIPCC__) && !defined(R123_CUDA_DEVICE)
#define R123_CUDA_DEVICE __host__ __device__  // Random123 knows nvcc, not hipcc
#define R123_USE_SSE 0
#define R123_USE_SSE4_1 0
#define R123_USE_SSE4_2 0
#define R123_USE_AES_NI 0
#endif
#include <Random123/philox.h>

#include <cmath>
#include <cstdint>
#include <string_view>

#include "upit/core/index.hpp"

namespace upit {

/// Names one stream of random numbers. Build it on the host with `random_key`.
struct RandomKey {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
};

struct RandomBits {
  std::uint32_t word[4];
};

/// Key of the stream for a purpose ("dropout", "dare", "order", ...) and up to four numbers that identify
/// the item (step, layer, child, ...). xxHash of all of them: equal arguments give equal streams everywhere.
RandomKey random_key(std::uint64_t seed, std::string_view purpose, std::int64_t a = 0, std::int64_t b = 0,
                     std::int64_t c = 0, std::int64_t d = 0);

/// The four 32-bit words at counter (item, block) of a stream (Salmon et al. 2011, Philox4x32-10).
UPIT_INLINE_FUNCTION RandomBits random_bits(RandomKey key, std::uint64_t item, std::uint64_t block = 0) {
  r123::Philox4x32 generator;
  r123::Philox4x32::ctr_type const counter = {
      {static_cast<std::uint32_t>(item), static_cast<std::uint32_t>(item >> 32),
       static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32)}};
  r123::Philox4x32::key_type const k = {{key.low, key.high}};
  r123::Philox4x32::ctr_type const out = generator(counter, k);
  return {{out[0], out[1], out[2], out[3]}};
}

/// Uniform in (0, 1), 52 bits from two words; never 0 or 1: with 53 bits adding the half would round up to 1.
UPIT_INLINE_FUNCTION double uniform_from(std::uint32_t high, std::uint32_t low) {
  std::uint64_t const bits = ((static_cast<std::uint64_t>(high) << 32) | low) >> 12;
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

/// Uniform in (0, 1) for item i of the stream.
UPIT_INLINE_FUNCTION double random_uniform(RandomKey key, std::uint64_t i) {
  RandomBits const b = random_bits(key, i);
  return uniform_from(b.word[0], b.word[1]);
}

/// Standard normal for item i of the stream (Box and Muller, one of the pair).
UPIT_INLINE_FUNCTION double random_normal(RandomKey key, std::uint64_t i) {
  RandomBits const b = random_bits(key, i);
  double const u = uniform_from(b.word[0], b.word[1]);
  double const v = uniform_from(b.word[2], b.word[3]);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/// Uniform integer in [0, n), n <= 2^32, for item i of the stream (multiply-shift; bias below 2^-32).
UPIT_INLINE_FUNCTION std::uint64_t random_below(RandomKey key, std::uint64_t i, std::uint64_t n) {
  RandomBits const b = random_bits(key, i);
  return (static_cast<std::uint64_t>(b.word[0]) * n + ((static_cast<std::uint64_t>(b.word[1]) * n) >> 32)) >>
         32;
}

}  // namespace upit
