// SPDX-License-Identifier: Apache-2.0
// Owns a tiny Llama as a Hugging Face directory, whole or broken in a chosen way.
#pragma once

#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <functional>

#include "support.hpp"
#include "upit/core/random.hpp"
#include "upit/io/safetensors.hpp"

namespace upit::test {

struct SmallLlama {
  Index layers = 2, width = 16, heads = 4, kv_heads = 2, ffn = 24, vocabulary = 320, context = 256;
  bool tied = false;
  /// May change or leave out (false) a tensor before it is written.
  std::function<bool(std::string const& name, std::vector<Index>& shape, std::vector<float>& values)> change;
};

/// `count` samples as JSON lines; no two are alike.
inline std::string sample_lines(int count, std::string const& about) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format(R"({{"instruction": "Say {} {}.", "input": "", "output": "{} is {} and {}."}})",
                        about, i, about, i, 7 * i % 11) +
            "\n";
  }
  return text;
}

/// Writes `folder`/tokenizer.model, about 300 pieces of sentences about a thing.
inline void write_tokenizer(Workplace const& place, std::string const& folder, std::string const& about) {
  auto const status = sentencepiece::SentencePieceTrainer::Train(
      fmt::format("--input={} --model_prefix={} --model_type=bpe --vocab_size=300 --hard_vocab_limit=false "
                  "--byte_fallback=true --bos_id=1 --eos_id=2 --minloglevel=3",
                  place.write(folder + "/text", sample_lines(50, about)), place.path(folder + "/tokenizer")));
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

/// Writes config.json, model.safetensors and tokenizer.model (about 300 pieces) below `folder`.
inline void write_llama(Workplace const& place, std::string const& folder, SmallLlama const& llama) {
  auto const& m = llama;
  place.write(folder + "/config.json",
              fmt::format(R"({{"model_type": "llama", "hidden_size": {}, "intermediate_size": {},
 "num_hidden_layers": {}, "num_attention_heads": {}, "num_key_value_heads": {}, "vocab_size": {},
 "max_position_embeddings": {}, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
 "tie_word_embeddings": {}, "bos_token_id": 1, "eos_token_id": 2}})",
                          m.width, m.ffn, m.layers, m.heads, m.kv_heads, m.vocabulary, m.context, m.tied));
  Index const kv = m.width / m.heads * m.kv_heads;
  std::vector<std::pair<std::string, std::vector<Index>>> shapes = {
      {"model.embed_tokens.weight", {m.vocabulary, m.width}}, {"model.norm.weight", {m.width}}};
  if (!m.tied) shapes.push_back({"lm_head.weight", {m.vocabulary, m.width}});
  for (Index l = 0; l < m.layers; ++l) {
    std::string const layer = fmt::format("model.layers.{}.", l);
    shapes.push_back({layer + "input_layernorm.weight", {m.width}});
    shapes.push_back({layer + "self_attn.q_proj.weight", {m.width, m.width}});
    shapes.push_back({layer + "self_attn.k_proj.weight", {kv, m.width}});
    shapes.push_back({layer + "self_attn.v_proj.weight", {kv, m.width}});
    shapes.push_back({layer + "self_attn.o_proj.weight", {m.width, m.width}});
    shapes.push_back({layer + "post_attention_layernorm.weight", {m.width}});
    shapes.push_back({layer + "mlp.gate_proj.weight", {m.ffn, m.width}});
    shapes.push_back({layer + "mlp.up_proj.weight", {m.ffn, m.width}});
    shapes.push_back({layer + "mlp.down_proj.weight", {m.width, m.ffn}});
  }
  std::vector<std::vector<float>> values;
  std::vector<SafetensorOut> out;
  values.reserve(shapes.size());
  for (auto& [name, shape] : shapes) {
    Index size = 1;
    for (Index const extent : shape) size *= extent;
    RandomKey const key = random_key(5, name);
    std::vector<float> data(static_cast<std::size_t>(size));
    for (std::size_t i = 0; i < data.size(); ++i) {
      auto const u = static_cast<float>(2.0 * random_uniform(key, i) - 1.0);
      data[i] = shape.size() == 1 ? 1.0F + 0.1F * u : 0.2F * u;
    }
    if (m.change && !m.change(name, shape, data)) continue;
    values.push_back(std::move(data));
    out.push_back({name, "F32", shape, values.back()});
  }
  write_safetensors(place.path(folder + "/model.safetensors"), out);
  write_tokenizer(place, folder, "tea");
}

}  // namespace upit::test
