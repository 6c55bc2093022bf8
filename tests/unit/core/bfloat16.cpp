// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the 16-bit storage type.
#include "upit/core/bfloat16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "upit/core/types.hpp"

namespace {

using upit::bfloat16;

static_assert(std::is_trivially_copyable_v<bfloat16> && std::is_trivially_default_constructible_v<bfloat16>);
static_assert(std::is_same_v<upit::Real<bfloat16>, float> && std::is_same_v<upit::Real<double>, double>);

constexpr std::uint32_t kValues = 65536;

float from_bits(std::uint32_t bits) {
  float value = 0.0f;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// The loops as kernels write them: vectorised, with a rest at the end.
std::vector<bfloat16> narrow(std::vector<float> const& from) {
  std::vector<bfloat16> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = bfloat16(from[i]);
  return to;
}
std::vector<float> widen(std::vector<bfloat16> const& from) {
  std::vector<float> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = from[i];
  return to;
}

std::vector<bfloat16> all_values() {
  std::vector<bfloat16> all(kValues);
  for (std::uint32_t i = 0; i < kValues; ++i) all[i].bits = static_cast<std::uint16_t>(i);
  return all;
}

TEST(Bfloat16, EveryValueIsTheUpperHalfOfAFloatAndReturns) {
  std::vector<bfloat16> const all = all_values();
  std::vector<float> const wide = widen(all);
  std::vector<bfloat16> const again = narrow(wide);
  for (std::uint32_t i = 0; i < kValues; ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &wide[i], sizeof(bits));
    ASSERT_EQ(bits, i << 16);
    if (std::isnan(wide[i])) {
      ASSERT_TRUE(std::isnan(static_cast<float>(again[i]))) << i;
    } else {
      ASSERT_EQ(again[i].bits, i);
    }
  }
}

// Between two neighbours lie 65535 floats: the ends of both halves and their middle decide all.
TEST(Bfloat16, RoundsToNearestAndTiesToEven) {
  std::vector<float> below, middle, above;
  std::vector<std::uint32_t> first;
  for (std::uint32_t i = 0; i < kValues; ++i) {
    if ((i & 0x7fffU) >= 0x7f80U) continue;  // infinities and NaN have no neighbour above
    first.push_back(i);
    below.push_back(from_bits((i << 16) | 0x7fffU));
    middle.push_back(from_bits((i << 16) | 0x8000U));
    above.push_back(from_bits((i << 16) | 0x8001U));
  }
  auto const low = narrow(below), tie = narrow(middle), high = narrow(above);
  for (std::size_t n = 0; n < first.size(); ++n) {  // the largest of all rounds up to infinity
    ASSERT_EQ(low[n].bits, first[n]);
    ASSERT_EQ(tie[n].bits, first[n] + (first[n] & 1U));
    ASSERT_EQ(high[n].bits, first[n] + 1);
  }
}

TEST(Bfloat16, KeepsNanAndInfinity) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(static_cast<float>(bfloat16(kInfinity)), kInfinity);
  EXPECT_EQ(static_cast<float>(bfloat16(-kInfinity)), -kInfinity);
  EXPECT_EQ(static_cast<float>(bfloat16(std::numeric_limits<float>::max())), kInfinity);
  for (std::uint32_t const payload : {0x00000001U, 0x00007fffU, 0x0000ffffU, 0x00400000U, 0x007fffffU})
    for (std::uint32_t const sign : {0U, 0x80000000U}) {
      EXPECT_TRUE(std::isnan(static_cast<float>(bfloat16(from_bits(sign | 0x7f800000U | payload)))))
          << payload;
    }
}

TEST(Bfloat16, ViewsBeginWithZerosAndTakeValues) {
  upit::View1<bfloat16> const view("test", 37);
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  for (std::size_t i = 0; i < host.extent(0); ++i) EXPECT_EQ(host(i).bits, 0);
  Kokkos::deep_copy(view, bfloat16(1.5f));
  Kokkos::deep_copy(host, view);
  for (std::size_t i = 0; i < host.extent(0); ++i) EXPECT_EQ(static_cast<float>(host(i)), 1.5f);
}

}  // namespace
