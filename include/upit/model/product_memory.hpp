// SPDX-License-Identifier: Apache-2.0
// Owns the count of what the products of a model's passes keep beside the workspace.
#pragma once

#include "upit/model/model_weights.hpp"

namespace upit {

/// The largest `gemm_kept_bytes` over the products with the matrices of `table`, forward and,
/// `with_backward`, of the gradients of activations and weights, for at most `tokens` tokens, all of which
/// may go to one FFN expert.
Index product_bytes(Precision precision, ModelConfig const& model, ExpertConfig const& expert,
                    ParameterTable const& table, Index tokens, bool with_backward);

}  // namespace upit
