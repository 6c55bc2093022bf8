// SPDX-License-Identifier: Apache-2.0
// Owns the way from planned sequences to the tokens of a forward pass.
#pragma once

#include <span>

#include "upit/model/batch.hpp"
#include "upit/text/batches.hpp"

namespace upit {

/// Replaces `out` by the samples of `sequences`, each its own segment. Position t is fed token t and predicts
/// token t + 1; there is no target before the first response token unless `loss_on_all`; none at all without
/// `with_targets`. The sample's index in the store is its id.
void build_batch(TokenStore const& store, std::span<Sequence const> sequences, bool loss_on_all,
                 bool with_targets, HostBatch& out);

}  // namespace upit
