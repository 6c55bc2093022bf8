// SPDX-License-Identifier: Apache-2.0
// Owns the writer of small Hugging Face Llama directories out of our weights, for tests of what reads them.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "upit/io/safetensors.hpp"
#include "upit/model/parameters.hpp"

namespace upit::test {

/// How the directory is laid out.
struct HuggingFaceLayout {
  std::string dtype = "F32";
  int shards = 1;                // more than one: shards and an index
  bool rope_parameters = false;  // rope_theta below rope_parameters, else at the top
};

/// `backbone`: a model's values on the host, which the list points into.
inline std::vector<SafetensorOut> huggingface_tensors(ModelConfig const& m, ParameterTable const& table,
                                                      std::vector<float> const& backbone,
                                                      std::string const& dtype) {
  std::vector<SafetensorOut> list;
  auto const part = [&](std::string const& name, Tensor const& t, Index first, std::vector<Index> shape) {
    Index size = 1;
    for (Index const extent : shape) size *= extent;
    list.push_back({name,
                    dtype,
                    std::move(shape),
                    {backbone.data() + t.offset + first, static_cast<std::size_t>(size)}});
  };
  Index const c = m.width, q = m.heads * m.head_width, kv = m.kv_heads * m.head_width, f = m.ffn;
  part("model.embed_tokens.weight", table.find("embedding"), 0, {m.vocabulary, c});
  for (int l = 0; l < m.layers; ++l) {
    auto const name = [l](char const* rest) { return fmt::format("model.layers.{}.{}.weight", l, rest); };
    auto const &qkv = table.find(l, "attention.qkv"), &gate_up = table.find(l, "ffn.gate_up");
    part(name("input_layernorm"), table.find(l, "attention_norm"), 0, {c});
    part(name("self_attn.q_proj"), qkv, 0, {q, c});
    part(name("self_attn.k_proj"), qkv, q * c, {kv, c});
    part(name("self_attn.v_proj"), qkv, (q + kv) * c, {kv, c});
    part(name("self_attn.o_proj"), table.find(l, "attention.out"), 0, {c, q});
    part(name("post_attention_layernorm"), table.find(l, "ffn_norm"), 0, {c});
    part(name("mlp.gate_proj"), gate_up, 0, {f, c});
    part(name("mlp.up_proj"), gate_up, f * c, {f, c});
    part(name("mlp.down_proj"), table.find(l, "ffn.down"), 0, {c, f});
  }
  part("model.norm.weight", table.find("norm"), 0, {c});
  if (!m.tied) part("lm_head.weight", table.find("head"), 0, {m.vocabulary, c});
  return list;
}

inline nlohmann::json huggingface_config(ModelConfig const& m, HuggingFaceLayout const& layout) {
  nlohmann::json config = {{"model_type", "llama"},
                           {"hidden_act", "silu"},
                           {"hidden_size", m.width},
                           {"intermediate_size", m.ffn},
                           {"num_hidden_layers", m.layers},
                           {"num_attention_heads", m.heads},
                           {"num_key_value_heads", m.kv_heads},
                           {"head_dim", m.head_width},
                           {"vocab_size", m.vocabulary},
                           {"max_position_embeddings", m.context},
                           {"rms_norm_eps", m.norm_eps},
                           {"tie_word_embeddings", m.tied}};
  if (layout.rope_parameters) {
    config["rope_parameters"] = {{"rope_theta", m.rope_theta}, {"rope_type", "default"}};
  } else {
    config["rope_theta"] = m.rope_theta;
  }
  return config;
}

/// Writes config.json and the tensors, dealt to shards in turn.
inline void write_huggingface(std::string const& directory, nlohmann::json const& config,
                              std::vector<SafetensorOut> const& tensors, int shards) {
  std::ofstream(directory + "/config.json") << config.dump(2);
  if (shards == 1) {
    write_safetensors(directory + "/model.safetensors", tensors, {{"format", "pt"}});
    return;
  }
  nlohmann::json index = {{"metadata", {{"total_size", 0}}}};
  for (int s = 0; s < shards; ++s) {
    std::string const file = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards);
    std::vector<SafetensorOut> mine;
    for (std::size_t i = static_cast<std::size_t>(s); i < tensors.size();
         i += static_cast<std::size_t>(shards)) {
      mine.push_back(tensors[i]);
      index["weight_map"][tensors[i].name] = file;
    }
    write_safetensors(directory + "/" + file, mine);
  }
  std::ofstream(directory + "/model.safetensors.index.json") << index.dump(2);
}

}  // namespace upit::test
