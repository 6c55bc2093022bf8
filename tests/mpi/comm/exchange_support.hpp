// SPDX-License-Identifier: Apache-2.0
// Owns what the tests of the token exchange share.
#pragma once

#include <utility>
#include <vector>

#include "upit/comm/message_limit.hpp"
#include "upit/core/types.hpp"

namespace upit::test {

/// What MPI was asked for; `fail_at` counts the calls down to one that fails.
struct Calls {
  int collective = 0, sends = 0, fail_at = 0;
  int most = 0;              // rows from one rank to one other in one call
  void const* in = nullptr;  // the last buffer sent
};
inline Calls calls;

/// Lowers the limit for one test.
class Limit {
 public:
  explicit Limit(Index elements) : before_(message_limit()) { set_message_limit(elements); }
  ~Limit() { set_message_limit(before_); }
  Limit(Limit const&) = delete;
  Limit& operator=(Limit const&) = delete;

 private:
  Index before_;
};

template <class T>
std::vector<T> to_vector(View2<T> const& view) {
  auto const host = Kokkos::create_mirror_view(view);
  Kokkos::deep_copy(host, view);
  std::vector<T> values;
  for (std::size_t i = 0; i < view.extent(0); ++i) {
    for (std::size_t c = 0; c < view.extent(1); ++c) values.push_back(host(i, c));
  }
  return values;
}

template <class T>
View2<T> rows_of(View2<T> const& view, Index first, Index end) {
  return Kokkos::subview(view, std::make_pair(first, end), Kokkos::ALL);
}

}  // namespace upit::test
