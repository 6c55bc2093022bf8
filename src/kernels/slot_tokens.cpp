// SPDX-License-Identifier: Apache-2.0
#include "upit/kernels/slot_tokens.hpp"

namespace upit::kernels {

void slot_tokens(Exec const& exec, View1<std::uint64_t const> const& sample, View1<int const> const& position,
                 View1<int const> const& order, Index active, View1<std::uint64_t> const& slot_sample,
                 View1<int> const& slot_position) {
  Kokkos::parallel_for(
      "upit::slot_tokens", Kokkos::RangePolicy<Exec>(exec, 0, order.extent(0)), KOKKOS_LAMBDA(Index const p) {
        Index const n = order(p) / active;
        slot_sample(p) = sample(n);
        slot_position(p) = position(n);
      });
}

}  // namespace upit::kernels
