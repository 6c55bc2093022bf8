// SPDX-License-Identifier: Apache-2.0
#include "upit/io/hash.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "upit/core/error.hpp"
#include "upit/io/files.hpp"

// GCC 12 warns of its own AVX-512 intrinsics here (gcc.gnu.org/PR105593, fixed in 13).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define XXH_INLINE_ALL
#include <xxhash.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace upit {

namespace {

std::string hex_of(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", static_cast<std::uint64_t>(hash.high64),
                     static_cast<std::uint64_t>(hash.low64));
}

}  // namespace

struct Hasher::State {
  XXH3_state_t xxh3;
};

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xxh3); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::add(void const* bytes, std::size_t count) {
  if (count > 0) XXH3_128bits_update(&state_->xxh3, bytes, count);
}

std::string Hasher::hex() const { return hex_of(XXH3_128bits_digest(&state_->xxh3)); }

std::string hash_text(std::string_view text) { return hex_of(XXH3_128bits(text.data(), text.size())); }

std::string hash_file(std::string const& path) {
  FileDescriptor const file(path, O_RDONLY);
  Hasher hasher;
  std::vector<char> buffer(1 << 20);
  while (true) {
    ssize_t const count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
    if (count == 0) return hasher.hex();
    hasher.add(buffer.data(), static_cast<std::size_t>(count));
  }
}

}  // namespace upit
