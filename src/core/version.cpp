// SPDX-License-Identifier: Apache-2.0
#include "upit/core/version.hpp"

#include "git_hash.hpp"  // of the build: cmake/git_hash.cmake

namespace upit {

char const* version() { return UPIT_VERSION; }

char const* git_hash() { return UPIT_GIT_HASH; }

}  // namespace upit
