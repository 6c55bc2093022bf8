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

void check_tokenizer(std::string const& key, std::string const& name, Tokenizer const& tokenizer,
                     std::string const& path, ModelFileInfo const& info) {
  require(
      info.tokenizer_hash.empty() || tokenizer_hash(name) == info.tokenizer_hash,
      fmt::format("{} is \"{}\", but {} was trained with {}", key, name, path,
                  name == info.tokenizer ? "another file in that place"
                                         : fmt::format("\"{}\", which had another content", info.tokenizer)));
  Index const pieces = tokenizer.vocabulary(), words = info.model.vocabulary;
  require(pieces <= words,
          fmt::format("{}: the tokenizer {} has {} pieces, but the model {} has a vocabulary of {}", key,
                      name, pieces, path, words));
  // A vocabulary is often padded beyond its tokenizer; one made of bytes is not.
  require(name != "bytes" || pieces == words,
          fmt::format("{} is \"bytes\", of {} pieces, but the model {} has a vocabulary of {}; name the "
                      "tokenizer.model it was trained with",
                      key, pieces, path, words));
}

ModelConfig base_shapes(Deck const& deck, Tokenizer const& tokenizer) {
  std::string const& path = deck.model.base;
  if (path.empty()) return own_shapes(deck, tokenizer.vocabulary());
  require(std::filesystem::exists(path), fmt::format("model.base: {} does not exist", path));
  ModelFileInfo info;
  if (std::filesystem::is_directory(path)) {
    info.model = huggingface_shapes(path, deck.data.context);
  } else {
    info = read_model_info(path, nullptr);
    require(info.kind == "dense",
            fmt::format("model.base: {} holds a model of kind {}; a dense one is needed", path, info.kind));
    require(deck.data.context <= info.model.context,
            fmt::format("data.context is {}, but {} allows {}", deck.data.context, path, info.model.context));
    info.model.context = deck.data.context;
  }
  check_tokenizer("data.tokenizer", deck.data.tokenizer, tokenizer, path, info);
  return info.model;
}

}  // namespace upit::upcycle
