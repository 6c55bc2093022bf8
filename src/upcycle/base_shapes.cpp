// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/base_shapes.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "upit/core/error.hpp"
#include "upit/train/load_model.hpp"

namespace upit::upcycle {
namespace {

ModelConfig own_shapes(Deck const& deck, Index vocabulary) {
  ModelConfig m;
  m.layers = deck.model.layers;
  m.width = deck.model.width;
  m.heads = deck.model.heads;
  m.kv_heads = deck.model.kv_heads;
  m.head_width = m.width / m.heads;
  m.ffn = deck.model.ffn;
  m.vocabulary = vocabulary;
  m.context = deck.data.context;
  m.norm_eps = deck.model.norm_eps;
  m.rope_theta = deck.model.rope_theta;
  m.tied = deck.model.tied;
  check(m, {});
  return m;
}

}  // namespace

ModelConfig base_shapes(Deck const& deck, Tokenizer const& tokenizer) {
  std::string const& path = deck.model.base;
  if (path.empty()) return own_shapes(deck, tokenizer.vocabulary());
  require(std::filesystem::exists(path), fmt::format("model.base: {} does not exist", path));
  ModelConfig m;
  if (std::filesystem::is_directory(path)) {
    m = huggingface_shapes(path, deck.data.context);
  } else {
    ModelFileInfo const info = read_model_info(path, nullptr);
    require(info.kind == "dense",
            fmt::format("model.base: {} holds a model of kind {}; a dense one is needed", path, info.kind));
    require(deck.data.tokenizer == info.tokenizer,
            fmt::format("data.tokenizer is \"{}\", but {} was trained with \"{}\"", deck.data.tokenizer, path,
                        info.tokenizer));
    m = info.model;
    require(deck.data.context <= m.context,
            fmt::format("data.context is {}, but {} allows {}", deck.data.context, path, m.context));
    m.context = deck.data.context;
  }
  require(tokenizer.vocabulary() <= m.vocabulary,
          fmt::format("the tokenizer {} has {} pieces, but the model {} has a vocabulary of {}",
                      deck.data.tokenizer, tokenizer.vocabulary(), path, m.vocabulary));
  // A vocabulary is often padded beyond its tokenizer; one made of bytes is not.
  require(deck.data.tokenizer != "bytes" || tokenizer.vocabulary() == m.vocabulary,
          fmt::format(
              "data.tokenizer is \"bytes\", of {} pieces, but the model {} has a vocabulary of {}; name the "
              "tokenizer.model it was trained with",
              tokenizer.vocabulary(), path, m.vocabulary));
  return m;
}

}  // namespace upit::upcycle
