// SPDX-License-Identifier: Apache-2.0
#include "upit/core/error.hpp"

#include <filesystem>

namespace upit {

void fail(std::string const& what) { throw Error(what); }

void expect(bool condition, std::string_view what, std::source_location where) {
  if (condition) return;
  throw std::logic_error(std::string(what) + " (" +
                         std::filesystem::path(where.file_name()).filename().string() + ":" +
                         std::to_string(where.line()) + ")");
}

}  // namespace upit
