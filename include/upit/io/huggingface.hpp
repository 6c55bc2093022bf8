// SPDX-License-Identifier: Apache-2.0
// Owns reading of a Hugging Face Llama directory: config.json and its safetensors files. Knows no model.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "upit/core/index.hpp"
#include "upit/io/safetensors.hpp"

namespace upit {

/// What config.json says, under its own names. Defaults are those of LlamaConfig.
struct HuggingFaceConfig {
  Index hidden_size = 0;
  Index intermediate_size = 0;
  Index num_hidden_layers = 0;
  Index num_attention_heads = 0;
  Index num_key_value_heads = 0;  // default: num_attention_heads
  Index head_dim = 0;             // default: hidden_size / num_attention_heads
  Index vocab_size = 0;
  Index max_position_embeddings = 2048;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;  // at the top or under rope_parameters
  bool tie_word_embeddings = false;
  int bos_token_id = -1;           // -1: null or absent
  std::vector<int> eos_token_ids;  // a number or a list in the file
};

/// Reads `directory`/config.json. Throws `Error` with file, key, what was found and what is allowed for
/// missing or impossible values and for what this program does not compute: model types other than llama,
/// activations other than silu, biases, scaled rotary embeddings, quantised weights.
HuggingFaceConfig read_huggingface_config(std::string const& directory);

/// The tensors of model.safetensors, or of the shards that model.safetensors.index.json names.
class HuggingFaceWeights {
 public:
  /// Opens every file. Throws `Error` if neither exists, a shard is missing or damaged, or a shard lacks a
  /// tensor that the index promises.
  explicit HuggingFaceWeights(std::string const& directory);

  std::vector<std::string> const& names() const { return names_; }
  bool contains(std::string const& name) const { return place_.contains(name); }
  /// Throws `Error` naming the directory if there is no such tensor.
  SafetensorInfo const& info(std::string const& name) const;
  std::string const& file_of(std::string const& name) const;
  /// Throws `Error` with file, tensor, the shape found and the shape wanted, or if the tensor is missing.
  void require_shape(std::string const& name, std::span<Index const> shape) const;
  /// See SafetensorsFile::read.
  void read(std::string const& name, Index first, std::span<float> out) const;
  /// Paths of the files, index first: what identifies the weights.
  std::vector<std::string> const& files() const { return files_; }

 private:
  SafetensorsFile const& file(std::string const& name) const;

  std::string directory_;
  std::vector<std::string> files_;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> names_;
  std::map<std::string, std::size_t> place_;  // tensor -> shard
};

}  // namespace upit
