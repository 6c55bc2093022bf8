// SPDX-License-Identifier: Apache-2.0
#include "upit/io/safetensors.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "upit/core/error.hpp"
#include "upit/io/shape.hpp"

namespace upit {

static_assert(std::endian::native == std::endian::little, "safetensors stores little-endian numbers");

namespace {

using Json = nlohmann::json;

// The reference implementation refuses longer headers, against files made to exhaust memory.
constexpr Index kMaxHeader = 100'000'000;
constexpr Index kPiece = 1 << 18;  // elements converted at a time

struct Dtype {
  char const* name;
  Index bytes;
};
constexpr std::array<Dtype, 15> kDtypes = {{{"BOOL", 1},
                                            {"U8", 1},
                                            {"I8", 1},
                                            {"F8_E5M2", 1},
                                            {"F8_E4M3", 1},
                                            {"U16", 2},
                                            {"I16", 2},
                                            {"F16", 2},
                                            {"BF16", 2},
                                            {"U32", 4},
                                            {"I32", 4},
                                            {"F32", 4},
                                            {"U64", 8},
                                            {"I64", 8},
                                            {"F64", 8}}};

Index bytes_of(std::string const& dtype) {
  for (Dtype const& d : kDtypes) {
    if (dtype == d.name) return d.bytes;
  }
  return 0;
}

void read_at(FileDescriptor const& file, std::string const& path, Index offset, void* out, Index bytes) {
  auto* at = static_cast<char*>(out);
  while (bytes > 0) {
    ssize_t const count = ::pread(file.get(), at, static_cast<std::size_t>(bytes), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(fmt::format("{}: cannot read at byte {}: {}", path, offset, std::strerror(errno)));
    if (count == 0)
      fail(fmt::format("{}: truncated: it ends at byte {}, {} more are wanted", path, offset, bytes));
    at += count;
    offset += count;
    bytes -= count;
  }
}

// nlohmann keeps the last of two equal keys without a word; here that would be a tensor read from the wrong
// place.
Json parse_json(std::string const& text, std::string const& path) {
  std::set<std::string> keys;
  std::string twice;
  auto const watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::key && depth == 1 && !keys.insert(value.get<std::string>()).second &&
        twice.empty()) {
      twice = value.get<std::string>();
    }
    return true;
  };
  try {
    Json header = Json::parse(text, watch);
    require(twice.empty(), fmt::format("{}: the header names tensor {} twice", path, twice));
    require(header.is_object(), fmt::format("{}: the header is not a JSON object", path));
    return header;
  } catch (Json::exception const& e) {
    fail(fmt::format("{}: the header is not JSON: {}", path, e.what()));
  }
}

std::optional<std::vector<Index>> counts(Json const& entry, char const* key) {
  auto const at = entry.find(key);
  if (at == entry.end() || !at->is_array()) return std::nullopt;
  std::vector<Index> out;
  for (Json const& value : *at) {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >> 63 != 0) return std::nullopt;
    out.push_back(value.get<Index>());
  }
  return out;
}

}  // namespace

Index SafetensorInfo::elements() const { return element_count(shape).value_or(0); }

SafetensorsFile::SafetensorsFile(std::string path) : path_(std::move(path)), file_(path_, O_RDONLY) {
  struct stat status {};
  require(::fstat(file_.get(), &status) == 0 && S_ISREG(status.st_mode), path_ + ": not a regular file");
  Index const size = status.st_size;
  require(size >= 8, fmt::format("{}: truncated: {} bytes, a safetensors file has at least 8", path_, size));
  std::uint64_t length = 0;
  read_at(file_, path_, 0, &length, 8);
  require(length <= static_cast<std::uint64_t>(kMaxHeader),
          fmt::format(
              "{}: not a safetensors file, or a damaged one: the header would have {} bytes, at most {} are "
              "allowed",
              path_, length, kMaxHeader));
  Index const header = static_cast<Index>(length);
  require(8 + header <= size,
          fmt::format("{}: truncated, or a lying header: the header would have {} bytes, the file "
                      "has {} after the length",
                      path_, header, size - 8));
  std::string text(static_cast<std::size_t>(header), ' ');
  read_at(file_, path_, 8, text.data(), header);
  parse_header(text, 8 + header, size);
}

void SafetensorsFile::parse_header(std::string const& text, Index data_begin, Index file_bytes) {
  Json const header = parse_json(text, path_);
  Index const data_bytes = file_bytes - data_begin;
  std::vector<std::pair<Index, std::string>> order;
  for (auto const& [name, entry] : header.items()) {
    std::string const who = path_ + ": tensor " + name;
    if (name == "__metadata__") {
      require(entry.is_object(), path_ + ": __metadata__ is not an object");
      for (auto const& [key, value] : entry.items()) {
        require(value.is_string(), fmt::format("{}: __metadata__.{} is not a string", path_, key));
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    require(entry.is_object() && entry.contains("dtype") && entry["dtype"].is_string(), who + ": no dtype");
    SafetensorInfo info;
    info.dtype = entry["dtype"].get<std::string>();
    Index const bytes = bytes_of(info.dtype);
    require(bytes > 0, fmt::format("{}: unknown dtype {}", who, info.dtype));
    auto const shape = counts(entry, "shape");
    auto const offsets = counts(entry, "data_offsets");
    require(shape.has_value(), who + ": shape is not a list of counts");
    require(offsets.has_value() && offsets->size() == 2, who + ": data_offsets is not a pair of counts");
    info.shape = *shape;
    Index const begin = (*offsets)[0];
    Index const end = (*offsets)[1];
    auto const elements = element_count(info.shape);
    Index wanted = 0;
    require(elements.has_value() && !__builtin_mul_overflow(*elements, bytes, &wanted),
            fmt::format("{}: shape {} has more than 2^63 bytes", who, shape_text(info.shape)));
    require(begin <= end, fmt::format("{}: data_offsets [{}, {}] run backwards", who, begin, end));
    require(end - begin == wanted, fmt::format("{}: {} bytes in data_offsets, {} {} has {}", who, end - begin,
                                               info.dtype, shape_text(info.shape), wanted));
    require(end <= data_bytes,
            fmt::format("{}: ends at byte {} of the data, the file holds {}: truncated, or a lying "
                        "header",
                        who, end, data_bytes));
    info.begin = data_begin + begin;
    info.end = data_begin + end;
    order.emplace_back(begin, name);
    tensors_.emplace(name, std::move(info));
  }
  // Empty tensors share their offset with the next: among equals the one that ends first comes first.
  std::sort(order.begin(), order.end(), [&](auto const& a, auto const& b) {
    return std::tuple(a.first, tensors_.at(a.second).end, a.second) <
           std::tuple(b.first, tensors_.at(b.second).end, b.second);
  });
  Index covered = data_begin;
  std::string before = "the header";
  for (auto const& [begin, name] : order) {
    SafetensorInfo const& info = tensors_.at(name);
    require(info.begin >= covered, fmt::format("{}: tensors {} and {} overlap", path_, before, name));
    require(info.begin == covered, fmt::format("{}: {} unused bytes between {} and tensor {}", path_,
                                               info.begin - covered, before, name));
    covered = info.end;
    before = name;
    names_.push_back(name);
  }
  require(covered == file_bytes,
          fmt::format("{}: {} bytes after the last tensor, none are allowed", path_, file_bytes - covered));
}

SafetensorInfo const& SafetensorsFile::info(std::string const& name) const {
  auto const at = tensors_.find(name);
  require(at != tensors_.end(), fmt::format("{}: no tensor {}", path_, name));
  return at->second;
}

void SafetensorsFile::read(std::string const& name, Index first, std::span<float> out) const {
  SafetensorInfo const& tensor = info(name);
  Index const count = static_cast<Index>(out.size());
  Index const elements = tensor.elements();
  expect(first >= 0 && first <= elements && count <= elements - first,
         "safetensors: elements outside the tensor");
  if (tensor.dtype == "F32") {
    return read_at(file_, path_, tensor.begin + 4 * first, out.data(), 4 * count);
  }
  bool const half = tensor.dtype == "F16";
  require(half || tensor.dtype == "BF16",
          fmt::format("{}: tensor {}: dtype {}, allowed are F32, F16, BF16", path_, name, tensor.dtype));
  std::vector<std::uint16_t> piece(static_cast<std::size_t>(std::min(count, kPiece)));
  for (Index done = 0; done < count; done += kPiece) {
    Index const n = std::min(kPiece, count - done);
    read_at(file_, path_, tensor.begin + 2 * (first + done), piece.data(), 2 * n);
    float* const to = out.data() + done;
    for (Index i = 0; i < n; ++i) to[i] = half ? float_from_f16(piece[i]) : float_from_bf16(piece[i]);
  }
}

void write_safetensors(std::string const& path, std::span<SafetensorOut const> tensors,
                       std::map<std::string, std::string> const& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  Index offset = 0;
  for (SafetensorOut const& t : tensors) {
    expect(t.dtype == "F32" || t.dtype == "F16" || t.dtype == "BF16",
           "safetensors: dtype must be F32, F16 or BF16");
    expect(element_count(t.shape) == static_cast<Index>(t.data.size()),
           "safetensors: data does not fill the shape");
    expect(!header.contains(t.name), "safetensors: two tensors of one name");
    Index const end = offset + bytes_of(t.dtype) * static_cast<Index>(t.data.size());
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data starts aligned
  std::uint64_t const length = text.size();

  std::string const temporary = temporary_name(path);
  FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
  try {
    write_all(file, {reinterpret_cast<char const*>(&length), 8}, temporary);
    write_all(file, text, temporary);
    std::vector<std::uint16_t> piece;
    for (SafetensorOut const& t : tensors) {
      if (t.dtype == "F32") {
        write_all(file, {reinterpret_cast<char const*>(t.data.data()), t.data.size_bytes()}, temporary);
        continue;
      }
      for (std::size_t done = 0; done < t.data.size(); done += kPiece) {
        auto const part = t.data.subspan(done, std::min<std::size_t>(kPiece, t.data.size() - done));
        piece.resize(part.size());
        std::transform(part.begin(), part.end(), piece.begin(),
                       t.dtype == "F16" ? f16_from_float : bf16_from_float);
        write_all(file, {reinterpret_cast<char const*>(piece.data()), 2 * piece.size()}, temporary);
      }
    }
    file.close();
    commit_file(temporary, path);
  } catch (Error const&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

float float_from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

float float_from_f16(std::uint16_t bits) {
  std::uint32_t const sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  std::uint32_t const rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  if (rest >= 0x0400u) return std::bit_cast<float>(sign | ((rest << 13) + (112u << 23)));
  // Subnormal: rest units of 2^-24, exact in binary32.
  float const magnitude = static_cast<float>(rest) * 0x1p-24F;
  return sign != 0 ? -magnitude : magnitude;
}

std::uint16_t bf16_from_float(float value) {
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::uint16_t f16_from_float(float value) {
  std::uint32_t const bits = std::bit_cast<std::uint32_t>(value);
  std::uint32_t const sign = (bits >> 16) & 0x8000u;
  std::uint32_t const rest = bits & 0x7fffffffu;
  auto const pack = [&](std::uint32_t low) { return static_cast<std::uint16_t>(sign | low); };
  if (rest > 0x7f800000u) return pack(0x7e00u | ((rest >> 13) & 0x3ffu));
  if (rest >= 0x47800000u) return pack(0x7c00u);  // 2^16 and above; 65520 .. 65536 round up below
  if (rest >= 0x38800000u) {                      // normal in binary16
    std::uint32_t const shifted = rest - (112u << 23);
    return pack((shifted + 0xfffu + ((shifted >> 13) & 1u)) >> 13);
  }
  // Adding 2^-1 * 2^0 aligns the value so that the units of 2^-24 are the last bits: the sum rounds to even.
  float const aligned = std::bit_cast<float>(rest) + 0.5F;
  return pack(std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u);
}

}  // namespace upit
