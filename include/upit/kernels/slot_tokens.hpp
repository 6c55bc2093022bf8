// SPDX-License-Identifier: Apache-2.0
// Owns the copy of token identity to expert slots: dropout masks are keyed by token, not by slot.
#pragma once

#include <cstdint>

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Gives every sorted slot the sample and position of its token.
///
///   sample, position            (N)    in
///   order                       (S)    in   S = N * K; slot n * K + k at each sorted place
///   slot_sample, slot_position  (S)    out
///
/// Enqueued on `exec`, not finished, when it returns.
void slot_tokens(Exec const& exec, View1<std::uint64_t const> const& sample, View1<int const> const& position,
                 View1<int const> const& order, Index active, View1<std::uint64_t> const& slot_sample,
                 View1<int> const& slot_position);

}  // namespace upit::kernels
