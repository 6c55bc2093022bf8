// SPDX-License-Identifier: Apache-2.0
// Owns the reader of tests/reference/*.safetensors: F64 and I64 in double, independent of the program's own
// reader.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "upit/core/index.hpp"

namespace upit::test {

/// A tensor of a reference file; integers are exact in double.
struct ReferenceTensor {
  std::vector<Index> shape;
  std::vector<double> value;
};

/// One case written by tests/reference/make_reference.py, wholly in memory.
class ReferenceFile {
 public:
  /// Throws `std::runtime_error` if the file is missing or not whole.
  explicit ReferenceFile(std::string const& path) : path_(path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> const bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::uint64_t length = 0;
    check(bytes.size() >= sizeof length, "is missing or empty");
    std::memcpy(&length, bytes.data(), sizeof length);
    check(length <= bytes.size() - sizeof length, "is cut off in its header");
    auto const* const body = bytes.data() + sizeof length + length;
    auto const size = bytes.size() - sizeof length - length;
    auto const header = nlohmann::json::parse(bytes.data() + sizeof length, body);
    for (auto const& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        config_ = nlohmann::json::parse(entry.at("config").get<std::string>());
        continue;
      }
      ReferenceTensor tensor{entry.at("shape").get<std::vector<Index>>(), {}};
      std::size_t count = 1;
      for (auto const extent : tensor.shape) count *= static_cast<std::size_t>(extent);
      auto const begin = entry.at("data_offsets").at(0).get<std::size_t>();
      check(count * 8 <= size && begin <= size - count * 8, "is cut off in its data");
      tensor.value.resize(count);
      auto const kind = entry.at("dtype").get<std::string>();
      if (kind == "F64") {
        if (count > 0) std::memcpy(tensor.value.data(), body + begin, count * 8);
      } else {
        check(kind == "I64", "holds a tensor that is neither F64 nor I64");
        for (std::size_t i = 0; i < count; ++i) {
          std::int64_t number = 0;
          std::memcpy(&number, body + begin + i * 8, 8);
          tensor.value[i] = static_cast<double>(number);
        }
      }
      tensors_.emplace(name, std::move(tensor));
    }
  }

  nlohmann::json const& config() const { return config_; }
  bool contains(std::string const& name) const { return tensors_.count(name) > 0; }
  std::map<std::string, ReferenceTensor> const& tensors() const { return tensors_; }
  /// Throws `std::runtime_error` naming the tensor if the file does not have it.
  ReferenceTensor const& find(std::string const& name) const {
    auto const found = tensors_.find(name);
    check(found != tensors_.end(), ("has no tensor " + name).c_str());
    return found->second;
  }
  double scalar(std::string const& name) const { return find(name).value.at(0); }
  std::vector<int> integers(std::string const& name) const {
    auto const& value = find(name).value;
    return {value.begin(), value.end()};
  }

 private:
  void check(bool condition, char const* what) const {
    if (!condition) throw std::runtime_error(path_ + " " + what);
  }

  std::string path_;
  nlohmann::json config_;
  std::map<std::string, ReferenceTensor> tensors_;
};

}  // namespace upit::test
