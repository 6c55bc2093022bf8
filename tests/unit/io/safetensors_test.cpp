// SPDX-License-Identifier: Apache-2.0
// Owns tests of the safetensors reader and writer: conversions, partial reads, every kind of damage.
#include "upit/io/safetensors.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "scratch.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;

namespace {

std::string file_of(std::string const& header, std::size_t data_bytes, std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\1');
}
std::string file_of(std::string const& header, std::size_t data_bytes) {
  return file_of(header, data_bytes, header.size());
}

// A plain decoder by the definition of the format.
double f16_value(std::uint16_t bits) {
  int const exponent = (bits >> 10) & 31;
  double const fraction = (bits & 1023) / 1024.0;
  double const sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return exponent == 0 ? sign * std::ldexp(fraction, -14) : sign * std::ldexp(1 + fraction, exponent - 15);
}

}  // namespace

TEST(HalfPrecision, EveryF16IsExactAndComesBack) {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    auto const bits = static_cast<std::uint16_t>(i);
    float const value = float_from_f16(bits);
    double const wanted = f16_value(bits);
    if (std::isnan(wanted)) {
      ASSERT_TRUE(std::isnan(value)) << i;
      ASSERT_TRUE(std::isnan(float_from_f16(f16_from_float(value)))) << i;
      continue;
    }
    ASSERT_EQ(value, wanted) << i;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << i;
    ASSERT_EQ(f16_from_float(value), bits) << i;
  }
}

TEST(HalfPrecision, RoundsToNearestEven) {
  // Midpoints between neighbours, and their neighbours in binary32.
  for (std::uint16_t bits = 0; bits < 0x7c00; ++bits) {
    double const low = f16_value(bits);
    double const high = bits == 0x7bff ? 65536.0 : f16_value(bits + 1);
    auto const middle = static_cast<float>((low + high) / 2);  // exact: one bit more than binary16 has
    std::uint16_t const even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(f16_from_float(middle), even) << bits;
    ASSERT_EQ(f16_from_float(std::nextafter(middle, 0.0F)), bits) << bits;
    ASSERT_EQ(f16_from_float(std::nextafter(middle, 1e9F)), bits + 1) << bits;
  }
  for (std::uint32_t bits = 0; bits < 0x7f80; bits += 3) {
    float const low = float_from_bf16(static_cast<std::uint16_t>(bits));
    float const middle = std::bit_cast<float>((bits << 16) + 0x8000u);
    ASSERT_EQ(bf16_from_float(low), bits);
    ASSERT_EQ(bf16_from_float(middle), bits % 2 == 0 ? bits : bits + 1) << bits;
    ASSERT_EQ(bf16_from_float(-std::nextafter(middle, 0.0F)), 0x8000u | bits) << bits;
    ASSERT_EQ(bf16_from_float(std::bit_cast<float>((bits << 16) + 0x8001u)), bits + 1) << bits;
  }
  float const nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(nan))));
  EXPECT_EQ(float_from_bf16(bf16_from_float(INFINITY)), INFINITY);
}

TEST(Safetensors, RoundTripOfEveryDtypeAndPartialReads) {
  Scratch const s;
  Index const n = (1 << 18) + 7;  // beyond one piece of the conversion
  std::vector<float> values(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) values[i] = static_cast<float>(i % 251) - 125.0F;  // exact in all three
  std::vector<float> const one = {-2.5F};
  std::vector<SafetensorOut> const out = {{"z.f32", "F32", {n}, values},
                                          {"b.f16", "F16", {1, n}, values},
                                          {"empty", "F32", {0, 4}, {}},
                                          {"a.bf16", "BF16", {n, 1}, values},
                                          {"scalar", "F32", {}, one}};
  std::string const path = s.path("m.safetensors");
  write_safetensors(path, out, {{"format", "pt"}});
  SafetensorsFile const file(path);
  EXPECT_THAT(file.names(), ::testing::ElementsAre("z.f32", "b.f16", "empty", "a.bf16", "scalar"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.info("a.bf16").shape, (std::vector<Index>{n, 1}));
  for (std::string const name : {"z.f32", "b.f16", "a.bf16"}) {
    std::vector<float> whole(values.size());
    file.read(name, 0, whole);
    EXPECT_EQ(whole, values) << name;
    std::vector<float> part(1001);
    file.read(name, n - 1001, part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), values.end() - 1001)) << name;
    file.read(name, n, std::span<float>());
    EXPECT_THROW(file.read(name, n - 1000, part), std::logic_error);
  }
  std::vector<float> got(1);
  file.read("scalar", 0, got);
  EXPECT_EQ(got, one);
  file.read("empty", 0, std::span<float>());
  expect_error([&] { file.info("none"); }, {path, "no tensor none"});
}

TEST(Safetensors, EmptyFileOfTensors) {
  Scratch const s;
  write_safetensors(s.path("e"), {});
  EXPECT_TRUE(SafetensorsFile(s.path("e")).names().empty());
}

TEST(Safetensors, IntegersAreListedButNotRead) {
  Scratch const s;
  std::string const path =
      s.write("i", file_of(R"({"n":{"dtype":"I64","shape":[2],"data_offsets":[0,16]}})", 16));
  SafetensorsFile const file(path);
  std::vector<float> out(2);
  expect_error([&] { file.read("n", 0, out); }, {path, "tensor n", "I64", "F32, F16, BF16"});
}

TEST(Safetensors, DamageIsNamed) {
  Scratch const s;
  struct Case {
    std::string bytes;
    std::vector<std::string> parts;
  };
  std::string const good = R"({"t":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  std::vector<Case> const cases = {
      {"", {"truncated", "0 bytes"}},
      {"1234567", {"truncated", "7 bytes"}},
      {file_of(good, 24, 1000), {"header would have 1000 bytes", "81"}},
      {file_of(good, 24, std::uint64_t{1} << 60), {"header would have 1152921504606846976 bytes", "at most"}},
      {file_of(good, 24, ~std::uint64_t{0}), {"header would have 18446744073709551615"}},
      {file_of(good, 24, 5), {"not JSON"}},
      {file_of(good, 23), {"tensor t", "24", "23", "truncated"}},
      {file_of(good, 0), {"tensor t", "truncated"}},
      {file_of(good, 25), {"1 bytes after the last tensor"}},
      {file_of("[]", 0), {"not a JSON object"}},
      {file_of("nonsense", 0), {"not JSON"}},
      {file_of(R"({"t":{"dtype":"Q4","shape":[2],"data_offsets":[0,1]}})", 1),
       {"tensor t", "unknown dtype Q4"}},
      {file_of(R"({"t":{"shape":[2],"data_offsets":[0,8]}})", 8), {"tensor t", "no dtype"}},
      {file_of(R"({"t":{"dtype":"F32","data_offsets":[0,8]}})", 8), {"tensor t", "shape"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), {"tensor t", "shape"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8), {"tensor t", "shape"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8), {"tensor t", "data_offsets"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8), {"tensor t", "backwards"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
       {"tensor t", "8 bytes", "(3)", "12"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
       {"tensor t", "2^63"}},
      {file_of(R"({"t":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0),
       {"tensor t", "2^63"}},
      {file_of(
           R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
           12),
       {"t and u overlap"}},
      {file_of(
           R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"F32","shape":[2],"data_offsets":[12,20]}})",
           20),
       {"4 unused bytes between t and tensor u"}},
      {file_of(
           R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
           8),
       {"names tensor t twice"}},
      {file_of(R"({"__metadata__":{"a":1}})", 0), {"__metadata__.a"}},
  };
  for (Case const& c : cases) {
    std::string const path = s.write("bad", c.bytes);
    std::vector<std::string> parts = c.parts;
    parts.push_back(path);
    SCOPED_TRACE(c.parts.front());
    expect_error([&] { SafetensorsFile const file(path); }, parts);
  }
  expect_error([&] { SafetensorsFile const file(s.path("none")); }, {s.path("none"), "No such file"});
  expect_error([&] { SafetensorsFile const file(s.path()); }, {s.path(), "not a regular file"});
}

TEST(Safetensors, FileThatShrinksWhileOpen) {
  Scratch const s;
  std::vector<float> const values(100, 1.0F);
  std::vector<SafetensorOut> const out = {{"t", "F32", {100}, values}};
  write_safetensors(s.path("m"), out);
  SafetensorsFile const file(s.path("m"));
  std::filesystem::resize_file(s.path("m"), file.info("t").end - 40);
  std::vector<float> got(100);
  expect_error([&] { file.read("t", 0, got); }, {s.path("m"), "truncated"});
}
