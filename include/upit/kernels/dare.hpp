// SPDX-License-Identifier: Apache-2.0
// Owns the merge of two experts by their DARE-masked task vectors (Yu et al. 2023; UpIT, Algorithm 2).
#pragma once

#include "upit/core/random.hpp"
#include "upit/core/types.hpp"

namespace upit::kernels {

/// child = base + w * DARE_p(first - base) + (1 - w) * DARE_p(second - base), in double. DARE_p drops an
/// element with probability p = `drop` in [0, 1) and divides the others by 1 - p; element i of the tensor is
/// kept if word i % 4 at counter i / 4 of its mask's stream is >= p * 2^32, so that a tensor can come in
/// pieces of any size.
///
///   base           (n)  in   extent 0: zero
///   first          (n)  in
///   second         (n)  in
///   first_element            place of entry 0 in the whole tensor
///   child          (n)  out  may be first or second
///
/// Enqueued on `exec`, not finished, when it returns.
template <class T>
void dare_merge(Exec const& exec, View1<T const> const& base, View1<T const> const& first,
                View1<T const> const& second, double weight, double drop, RandomKey first_mask,
                RandomKey second_mask, Index first_element, View1<T> const& child);

}  // namespace upit::kernels
