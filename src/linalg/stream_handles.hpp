// SPDX-License-Identifier: Apache-2.0
// Owns the handles of a device's library: one for each stream.
#pragma once

#include <Kokkos_Core.hpp>
#include <memory>
#include <vector>

#include "upit/core/types.hpp"

namespace upit::backend {

/// The handle of the stream of `exec`: made from it at its first product, ended before Kokkos is. `Handle`
/// says whether it `serves` another instance. Products are asked for by one host thread.
template <class Handle>
Handle const& handle_of(Exec const& exec) {
  static std::vector<std::unique_ptr<Handle>> handles;
  for (auto const& h : handles) {
    if (h->serves(exec)) return *h;
  }
  if (handles.empty()) Kokkos::push_finalize_hook([] { handles.clear(); });
  handles.push_back(std::make_unique<Handle>(exec));
  return *handles.back();
}

}  // namespace upit::backend
