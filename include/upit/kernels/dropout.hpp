// SPDX-License-Identifier: Apache-2.0
// Owns dropout with masks keyed by what an element is, so that no mask is stored.
#pragma once

#include <cstdint>

#include "upit/core/random.hpp"
#include "upit/core/types.hpp"

namespace upit::kernels {

/// y = x * mask / (1 - drop). The mask of channel c of a token is word c % 4 of counter
/// (item = sample * 2^24 + position, block = c / 4) of stream `key`: kept if word >= drop * 2^32. Ranks,
/// packing and order of the batch do not matter.
///
///   x         (N, C)  in
///   sample    (N)     in   id of each token's sample, below 2^40
///   position  (N)     in   in its sample, below 2^24
///   key                    stream of (seed, step, layer, matrix)
///   drop                   in [0, 1)
///   y         (N, C)  out  may be x
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void dropout_forward(Exec const& exec, View2<T const> const& x, View1<std::uint64_t const> const& sample,
                     View1<int const> const& position, RandomKey key, Real<T> drop, View2<T> const& y);

/// The masks of `dropout_forward` alone: 1 where it keeps an element, 0 where it drops it.
///
///   mask  (N, C)  out
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void dropout_mask(Exec const& exec, View1<std::uint64_t const> const& sample,
                  View1<int const> const& position, RandomKey key, Real<T> drop, View2<T> const& mask);

/// Backward of `dropout_forward`, with the same masks.
///
///   dy  (N, C)  in
///   dx  (N, C)  out  accumulated: += dy * mask / (1 - drop)
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void dropout_backward(Exec const& exec, View2<T const> const& dy, View1<std::uint64_t const> const& sample,
                      View1<int const> const& position, RandomKey key, Real<T> drop, View2<T> const& dx);

}  // namespace upit::kernels
