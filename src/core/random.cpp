// SPDX-License-Identifier: Apache-2.0
#include "upit/core/random.hpp"

#include <array>
#include <cstring>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace upit {

RandomKey random_key(std::uint64_t seed, std::string_view purpose, std::int64_t a, std::int64_t b,
                     std::int64_t c, std::int64_t d) {
  std::array<std::int64_t, 5> const numbers = {static_cast<std::int64_t>(seed), a, b, c, d};
  std::uint64_t const name = XXH64(purpose.data(), purpose.size(), 0);
  std::uint64_t const key = XXH64(numbers.data(), sizeof(numbers), name);
  return {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
}

}  // namespace upit
