// SPDX-License-Identifier: Apache-2.0
// Owns the safetensors format: 8 bytes header length, JSON header, raw little-endian tensors.
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "upit/core/index.hpp"
#include "upit/io/files.hpp"

namespace upit {

/// One tensor of a file. `begin` and `end` are bytes from the start of the file.
struct SafetensorInfo {
  std::string dtype;  // as in the header: F32, F16, BF16, ...
  std::vector<Index> shape;
  Index begin = 0;
  Index end = 0;
  Index elements() const;
};

/// A file opened for reading. The header is checked as the reference implementation does: every tensor has a
/// known dtype and as many bytes as its shape says, and tensors cover the data without overlap, gap or rest.
/// Tensors are read in pieces, so memory does not grow with the file. Movable; not for two threads at once.
class SafetensorsFile {
 public:
  /// Throws `Error` with file, tensor, what was found and what is allowed.
  explicit SafetensorsFile(std::string path);

  std::string const& path() const { return path_; }
  /// In the order of the data.
  std::vector<std::string> const& names() const { return names_; }
  bool contains(std::string const& name) const { return tensors_.contains(name); }
  /// Throws `Error` naming the file if there is no such tensor.
  SafetensorInfo const& info(std::string const& name) const;
  /// The header's `__metadata__`.
  std::map<std::string, std::string> const& metadata() const { return metadata_; }

  /// Elements [first, first + out.size()) of a tensor in row-major order, F32, F16 or BF16 in the file. The
  /// conversion is exact. Throws `Error` for another dtype, a range outside the tensor or a failed read.
  void read(std::string const& name, Index first, std::span<float> out) const;

 private:
  void parse_header(std::string const& text, Index data_begin, Index file_bytes);

  std::string path_;
  FileDescriptor file_;
  std::vector<std::string> names_;
  std::map<std::string, SafetensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// One tensor to write. F16 and BF16 round to nearest, ties to even.
struct SafetensorOut {
  std::string name;
  std::string dtype;  // F32, F16 or BF16
  std::vector<Index> shape;
  std::span<float const> data;  // row-major
};

/// Writes a file that is whole or absent, tensors in the order given. Throws `Error`.
void write_safetensors(std::string const& path, std::span<SafetensorOut const> tensors,
                       std::map<std::string, std::string> const& metadata = {});

/// IEEE binary16 and bfloat16 from and to binary32. To narrow: round to nearest even; NaN stays NaN.
float float_from_f16(std::uint16_t bits);
float float_from_bf16(std::uint16_t bits);
std::uint16_t f16_from_float(float value);
std::uint16_t bf16_from_float(float value);

}  // namespace upit
