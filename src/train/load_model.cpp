// SPDX-License-Identifier: Apache-2.0
#include "upit/train/load_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "upit/core/error.hpp"
#include "upit/io/huggingface.hpp"

namespace upit {
namespace {

/// Reads `name` (shape `shape`) into rows that start at element `first` of tensor `t`.
void read_part(HuggingFaceWeights const& files, std::string const& name, std::vector<Index> const& shape,
               Tensor const& t, Index first, ModelWeights<float> const& weights) {
  files.require_shape(name, shape);
  Index size = 1;
  for (Index const extent : shape) size *= extent;
  // Pieces keep the host copy small next to the model.
  constexpr Index kPiece = Index{1} << 24;
  for (Index begin = 0; begin < size; begin += kPiece) {
    Index const count = std::min(kPiece, size - begin);
    Tensor piece = t;  // as a tensor of its own
    piece.shape = {count};
    piece.offset += first + begin;
    View1<float> const device =
        weights.precision == Precision::fp32
            ? weights.fp32.tensor(piece)
            : View1<float>(Kokkos::view_alloc("upit::read_part", Kokkos::WithoutInitializing), count);
    auto const host = Kokkos::create_mirror_view(device);
    files.read(name, begin, std::span<float>(host.data(), static_cast<std::size_t>(count)));
    Kokkos::deep_copy(device, host);
    if (weights.precision != Precision::fp32) assign(weights, piece, device);
  }
}

}  // namespace

ModelConfig huggingface_shapes(std::string const& directory, Index context) {
  HuggingFaceConfig const c = read_huggingface_config(directory);
  ModelConfig m;
  m.layers = c.num_hidden_layers;
  m.width = c.hidden_size;
  m.heads = c.num_attention_heads;
  m.kv_heads = c.num_key_value_heads;
  m.head_width = c.head_dim;
  m.ffn = c.intermediate_size;
  m.vocabulary = c.vocab_size;
  m.context = c.max_position_embeddings;
  require(context <= m.context, fmt::format("data.context is {}, but {}/config.json allows {} positions",
                                            context, directory, m.context));
  if (context > 0) m.context = context;
  m.norm_eps = c.rms_norm_eps;
  m.rope_theta = c.rope_theta;
  m.tied = c.tie_word_embeddings;
  check(m, {});
  return m;
}

void load_huggingface(std::string const& directory, ParameterTable const& table, ModelConfig const& m,
                      ModelWeights<float> const& weights) {
  HuggingFaceWeights const files(directory);
  Index const c = m.width, q = m.heads * m.head_width, kv = m.kv_heads * m.head_width;
  read_part(files, "model.embed_tokens.weight", {m.vocabulary, c}, table.find("embedding"), 0, weights);
  for (int l = 0; l < m.layers; ++l) {
    auto const name = [l](char const* rest) { return fmt::format("model.layers.{}.{}.weight", l, rest); };
    auto const& qkv = table.find(l, "attention.qkv");
    auto const& gate_up = table.find(l, "ffn.gate_up");
    read_part(files, name("input_layernorm"), {c}, table.find(l, "attention_norm"), 0, weights);
    read_part(files, name("self_attn.q_proj"), {q, c}, qkv, 0, weights);
    read_part(files, name("self_attn.k_proj"), {kv, c}, qkv, q * c, weights);
    read_part(files, name("self_attn.v_proj"), {kv, c}, qkv, (q + kv) * c, weights);
    read_part(files, name("self_attn.o_proj"), {c, q}, table.find(l, "attention.out"), 0, weights);
    read_part(files, name("post_attention_layernorm"), {c}, table.find(l, "ffn_norm"), 0, weights);
    read_part(files, name("mlp.gate_proj"), {m.ffn, c}, gate_up, 0, weights);
    read_part(files, name("mlp.up_proj"), {m.ffn, c}, gate_up, m.ffn * c, weights);
    read_part(files, name("mlp.down_proj"), {c, m.ffn}, table.find(l, "ffn.down"), 0, weights);
  }
  read_part(files, "model.norm.weight", {c}, table.find("norm"), 0, weights);
  if (!m.tied) read_part(files, "lm_head.weight", {m.vocabulary, c}, table.find("head"), 0, weights);
}

bool directory_on_root(std::string const& path, Communicator const& comm) {
  std::error_code unknown;  // whoever opens it says what is wrong
  return comm.any(comm.root() && std::filesystem::is_directory(path, unknown));
}

LoadedModel load_model(std::string const& path, Communicator const& comm) {
  LoadedModel loaded;
  comm.agree([&] {
    require(std::filesystem::exists(path),
            fmt::format("{} does not exist; a model is a Hugging Face directory or a file of upit", path));
  });
  if (directory_on_root(path, comm)) {
    comm.agree([&] {
      loaded.info.kind = "dense";
      loaded.info.model = huggingface_shapes(path, 0);
      auto const tokenizer = std::filesystem::path(path) / "tokenizer.model";
      if (std::filesystem::exists(tokenizer)) loaded.info.tokenizer = tokenizer.string();
      loaded.info.prompt = "alpaca";
      loaded.table = std::make_unique<ParameterTable>(loaded.info.model, ExpertConfig{});
      loaded.weights = Weights<float>(*loaded.table);
      load_huggingface(path, *loaded.table, loaded.info.model, loaded.weights);
    });
    return loaded;
  }
  loaded.info = read_model_info(path, &comm);
  comm.agree([&] {
    require(loaded.info.kind == "dense" || loaded.info.kind == "moe",
            fmt::format("{} holds {}; only a dense or MoE model can run alone", path,
                        loaded.info.kind == "expert" ? "an expert without its base" : "a restart state"));
    check(loaded.info.model, loaded.info.expert);
    loaded.table = std::make_unique<ParameterTable>(loaded.info.model, loaded.info.expert);
    loaded.weights = Weights<float>(*loaded.table);
  });
  bool const moe = loaded.info.kind == "moe";
  read_model_file(path, &comm, *loaded.table, loaded.weights, {true, moe, moe});
  return loaded;
}

}  // namespace upit
