// SPDX-License-Identifier: Apache-2.0
// Owns the shapes of the base that a deck asks for.
#pragma once

#include "upit/config/deck.hpp"
#include "upit/model/config.hpp"
#include "upit/text/tokenizer.hpp"

namespace upit::upcycle {

/// Shapes of the model that model.base names (a Hugging Face directory or a dense file of ours), or of the
/// one to be pre-trained; its context is data.context. This rank alone; throws `Error` for a model that is
/// missing, not dense, too short for data.context, or with fewer words than the tokenizer.
ModelConfig base_shapes(Deck const& deck, Tokenizer const& tokenizer);

}  // namespace upit::upcycle
