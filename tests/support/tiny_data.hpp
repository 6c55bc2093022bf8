// SPDX-License-Identifier: Apache-2.0
// Owns small sets of random samples, and weights as plain vectors, for tests of training.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "upit/core/random.hpp"
#include "upit/model/parameters.hpp"
#include "upit/text/sample.hpp"

namespace upit::test {

/// Samples of `shortest` to `longest` tokens in two domains; the response starts somewhere inside.
inline TokenStore tiny_store(Index samples, Index vocabulary, Index shortest, Index longest,
                             std::uint64_t seed = 1) {
  TokenStore store;
  store.domains = {"even", "odd"};
  RandomKey const key = random_key(seed, "tiny store");
  std::uint64_t n = 0;
  auto const below = [&](Index bound) {
    return static_cast<Index>(random_below(key, n++, static_cast<std::uint64_t>(bound)));
  };
  for (Index s = 0; s < samples; ++s) {
    std::vector<int> tokens(static_cast<std::size_t>(shortest + below(longest - shortest + 1)));
    for (int& t : tokens) t = static_cast<int>(below(vocabulary));
    int const response = static_cast<int>(below(static_cast<Index>(tokens.size()) - 1)) + 1;
    store.append(tokens, response, static_cast<int>(s % 2));
  }
  return store;
}

/// All three groups, one after the other, padding included.
template <class T>
std::vector<T> flat(Weights<T> const& weights) {
  std::vector<T> out;
  // An array with a name: nvcc 13 loses a braced list of dependent types in the head of a loop.
  std::array const buffers = {weights.backbone, weights.expert, weights.router};
  for (auto const& buffer : buffers) {
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), buffer);
    out.insert(out.end(), host.data(), host.data() + host.extent(0));
  }
  return out;
}

template <class T>
std::vector<T> flat(View1<T> const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), view);
  return std::vector<T>(host.data(), host.data() + host.extent(0));
}

template <class T>
void copy(Weights<T> const& to, Weights<T> const& from) {
  Kokkos::deep_copy(to.backbone, from.backbone);
  Kokkos::deep_copy(to.expert, from.expert);
  Kokkos::deep_copy(to.router, from.router);
}

}  // namespace upit::test
