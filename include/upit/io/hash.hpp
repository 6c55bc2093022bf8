// SPDX-License-Identifier: Apache-2.0
// Owns hashes of texts and files: XXH3, 128 bits, 32 hexadecimal digits. Not for secrets.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace upit {

/// Hash of bytes that arrive in pieces: equal to the hash of their concatenation.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void add(void const* bytes, std::size_t count);
  void add(std::string_view text) { add(text.data(), text.size()); }
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hash_text(std::string_view text);

/// Hash of a file's bytes, read in pieces of 1 MiB. Throws `Error` if it cannot be read.
std::string hash_file(std::string const& path);

}  // namespace upit
