// SPDX-License-Identifier: Apache-2.0
// Owns the shapes of the base that a deck asks for.
#pragma once

#include "upit/config/deck.hpp"
#include "upit/model/config.hpp"
#include "upit/text/tokenizer.hpp"
#include "upit/train/model_file.hpp"

namespace upit::upcycle {

/// Shapes of the model that model.base names (a Hugging Face directory or a dense file of ours), or of the
/// one to be pre-trained; its context is data.context. This rank alone; throws `Error` for a model that is
/// missing, not dense, too short for data.context, or with fewer words than the tokenizer.
ModelConfig base_shapes(Deck const& deck, Tokenizer const& tokenizer);

/// Throws `Error` unless the tokenizer that `key` (a key of the deck, an option) names can be the one that
/// the model in `path` was trained with: the same content where a file of ours says which, not more pieces
/// than the model has words, and bytes only for a model of bytes.
void check_tokenizer(std::string const& key, std::string const& name, Tokenizer const& tokenizer,
                     std::string const& path, ModelFileInfo const& info);

}  // namespace upit::upcycle
