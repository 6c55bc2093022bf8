// SPDX-License-Identifier: Apache-2.0
// Owns the token store.
#include "upit/text/sample.hpp"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "upit/core/error.hpp"

namespace upit {

Index TokenStore::longest() const {
  Index most = 0;
  for (Index i = 0; i < size(); ++i) most = std::max(most, input_tokens(i));
  return most;
}

void TokenStore::append(std::span<int const> sample, int response, int domain) {
  expect(sample.size() >= 2 && response >= 0 && response < static_cast<int>(sample.size()),
         "a sample needs two tokens and a response inside it");
  expect(domain >= 0 && domain < static_cast<int>(domains.size()), "a sample's domain must be named first");
  samples.push_back({static_cast<Index>(tokens.size()), static_cast<int>(sample.size()), response, domain});
  tokens.insert(tokens.end(), sample.begin(), sample.end());
}

std::uint64_t TokenStore::hash() const {
  std::uint64_t h = XXH64(tokens.data(), tokens.size() * sizeof(int), 0);
  // Field by field: the struct has padding bytes, which mean nothing.
  for (TokenSample const& s : samples) {
    std::uint64_t const fields[4] = {h, static_cast<std::uint64_t>(s.length),
                                     static_cast<std::uint64_t>(s.response),
                                     static_cast<std::uint64_t>(s.domain)};
    h = XXH64(fields, sizeof(fields), 0);
  }
  for (std::string const& name : domains) h = XXH64(name.data(), name.size(), h);
  return h;
}

}  // namespace upit
