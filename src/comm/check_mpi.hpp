// SPDX-License-Identifier: Apache-2.0
// Owns the look at MPI's return codes.
#pragma once

#include <fmt/core.h>
#include <mpi.h>

#include <array>
#include <cstddef>
#include <string_view>

#include "upit/core/error.hpp"

namespace upit {

/// Throws `Error` naming the call and MPI's own words unless `code` is success.
inline void check_mpi(int code, char const* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  fail(fmt::format("{} failed: {}", call, std::string_view(text.data(), static_cast<std::size_t>(length))));
}

}  // namespace upit
