// SPDX-License-Identifier: Apache-2.0
// Owns what this program is called: release and commit.
#pragma once

namespace upit {

/// "0.1.0".
char const* version();
/// Commit the program was built from, "-dirty" behind it where files had changed; "unknown" outside a
/// checkout.
char const* git_hash();

}  // namespace upit
