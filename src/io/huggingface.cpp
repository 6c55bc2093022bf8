// SPDX-License-Identifier: Apache-2.0
#include "upit/io/huggingface.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "upit/core/error.hpp"
#include "upit/io/shape.hpp"

namespace upit {

namespace {

using Json = nlohmann::json;

Json parse_json_file(std::string const& path) {
  std::string const text = read_text_file(path);
  try {
    Json json = Json::parse(text);
    require(json.is_object(), path + ": not a JSON object");
    return json;
  } catch (Json::exception const& e) {
    fail(fmt::format("{}: not JSON: {}", path, e.what()));
  }
}

/// One JSON object with the words for its errors. A key with value null counts as absent, as in the library
/// that writes these files.
class Keys {
 public:
  Keys(Json const& json, std::string where) : json_(json), where_(std::move(where)) {}

  Json const* find(char const* key) const {
    auto const at = json_.find(key);
    return at == json_.end() || at->is_null() ? nullptr : &*at;
  }
  [[noreturn]] void refuse(char const* key, std::string const& allowed) const {
    Json const* value = find(key);
    fail(fmt::format("{}: {} is {}, {}", where_, key, value == nullptr ? "missing" : value->dump(), allowed));
  }
  Index count(char const* key, Index otherwise) const {
    Json const* value = find(key);
    if (value == nullptr && otherwise > 0) return otherwise;
    if (value == nullptr || !value->is_number_unsigned() || value->get<std::uint64_t>() < 1 ||
        value->get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
      refuse(key, "a positive whole number below 2^31 is wanted");
    }
    return value->get<Index>();
  }
  double positive(char const* key, double otherwise) const {
    Json const* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number() || !(value->get<double>() > 0)) refuse(key, "a positive number is wanted");
    return value->get<double>();
  }
  bool flag(char const* key, bool otherwise) const {
    Json const* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) refuse(key, "true or false is wanted");
    return value->get<bool>();
  }
  std::string const& where() const { return where_; }

 private:
  Json const& json_;
  std::string where_;
};

int token_id(Keys const& keys, char const* key, Json const& value) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<std::int32_t>::max()) {
    keys.refuse(key, "a token id is wanted");
  }
  return value.get<int>();
}

// Both spellings of a rotary type are in use; older files say "type".
void require_plain_rotary(Keys const& keys, char const* table) {
  Json const* value = keys.find(table);
  if (value == nullptr) return;
  if (!value->is_object()) keys.refuse(table, "a table is wanted");
  for (char const* key : {"rope_type", "type"}) {
    auto const at = value->find(key);
    if (at != value->end() && *at != "default")
      keys.refuse(table, "unsupported: only rope_type \"default\" is");
  }
  auto const partial = value->find("partial_rotary_factor");
  if (partial != value->end() && *partial != 1.0)
    keys.refuse(table, "unsupported: only partial_rotary_factor 1 is");
  if (std::string_view(table) == "rope_scaling" && !value->contains("rope_type") &&
      !value->contains("type")) {
    keys.refuse(table, "unsupported: only null or rope_type \"default\" is");
  }
}

double rope_theta(Keys const& keys) {
  double const top = keys.positive("rope_theta", 0.0);
  double below = 0.0;
  if (Json const* table = keys.find("rope_parameters")) {
    below = Keys(*table, keys.where() + ": rope_parameters").positive("rope_theta", 0.0);
  }
  require(
      top == 0.0 || below == 0.0 || top == below,
      fmt::format("{}: rope_theta is {} at the top and {} under rope_parameters", keys.where(), top, below));
  return top > 0.0 ? top : below > 0.0 ? below : HuggingFaceConfig().rope_theta;
}

}  // namespace

HuggingFaceConfig read_huggingface_config(std::string const& directory) {
  std::string const path = (std::filesystem::path(directory) / "config.json").string();
  Json const json = parse_json_file(path);
  Keys const keys(json, path);

  Json const* type = keys.find("model_type");
  if (type == nullptr || *type != "llama") keys.refuse("model_type", "only \"llama\" is supported");
  Json const* activation = keys.find("hidden_act");
  if (activation != nullptr && *activation != "silu") keys.refuse("hidden_act", "only \"silu\" is supported");
  for (char const* bias : {"attention_bias", "mlp_bias"}) {
    if (keys.flag(bias, false)) keys.refuse(bias, "unsupported: linears have no bias here");
  }
  if (keys.find("quantization_config") != nullptr) {
    keys.refuse("quantization_config", "unsupported: weights must be F32, F16 or BF16");
  }
  require_plain_rotary(keys, "rope_scaling");
  require_plain_rotary(keys, "rope_parameters");

  HuggingFaceConfig c;
  c.hidden_size = keys.count("hidden_size", 0);
  c.intermediate_size = keys.count("intermediate_size", 0);
  c.num_hidden_layers = keys.count("num_hidden_layers", 0);
  c.num_attention_heads = keys.count("num_attention_heads", 0);
  c.num_key_value_heads = keys.count("num_key_value_heads", c.num_attention_heads);
  c.vocab_size = keys.count("vocab_size", 0);
  c.max_position_embeddings = keys.count("max_position_embeddings", c.max_position_embeddings);
  c.rms_norm_eps = keys.positive("rms_norm_eps", c.rms_norm_eps);
  c.rope_theta = rope_theta(keys);
  c.tie_word_embeddings = keys.flag("tie_word_embeddings", c.tie_word_embeddings);
  if (keys.find("head_dim") == nullptr && c.hidden_size % c.num_attention_heads != 0) {
    keys.refuse("num_attention_heads",
                fmt::format("it must divide hidden_size {} where head_dim is not given", c.hidden_size));
  }
  c.head_dim = keys.count("head_dim", std::max<Index>(1, c.hidden_size / c.num_attention_heads));
  if (c.num_attention_heads % c.num_key_value_heads != 0) {
    keys.refuse("num_key_value_heads",
                fmt::format("it must divide num_attention_heads {}", c.num_attention_heads));
  }
  if (c.head_dim % 2 != 0) {
    fail(fmt::format("{}: head_dim is {}, rotary embedding needs an even number", path, c.head_dim));
  }
  if (Json const* bos = keys.find("bos_token_id")) c.bos_token_id = token_id(keys, "bos_token_id", *bos);
  if (Json const* eos = keys.find("eos_token_id")) {
    if (eos->is_array()) {
      for (Json const& id : *eos) c.eos_token_ids.push_back(token_id(keys, "eos_token_id", id));
    } else {
      c.eos_token_ids.push_back(token_id(keys, "eos_token_id", *eos));
    }
  }
  return c;
}

HuggingFaceWeights::HuggingFaceWeights(std::string const& directory) : directory_(directory) {
  namespace fs = std::filesystem;
  fs::path const folder(directory);
  std::error_code ignored;
  std::string const single = (folder / "model.safetensors").string();
  std::string const index = (folder / "model.safetensors.index.json").string();
  if (fs::exists(single, ignored)) {
    files_.push_back(single);
    shards_.emplace_back(single);
    names_ = shards_[0].names();
    for (std::string const& name : names_) place_.emplace(name, 0);
    return;
  }
  require(fs::exists(index, ignored),
          fmt::format("{}: neither model.safetensors nor model.safetensors.index.json is there", directory));
  Json const json = parse_json_file(index);
  auto const map = json.find("weight_map");
  require(map != json.end() && map->is_object(), index + ": weight_map is missing or not a table");
  files_.push_back(index);
  std::map<std::string, std::size_t> shard_of;
  for (auto const& [name, value] : map->items()) {
    require(value.is_string(), fmt::format("{}: weight_map.{} is not a file name", index, name));
    std::string const shard = value.get<std::string>();
    require(!shard.empty() && shard == fs::path(shard).filename() && shard != "..",
            fmt::format("{}: weight_map.{} is \"{}\", a file of the same directory is wanted", index, name,
                        shard));
    auto const [at, fresh] = shard_of.emplace(shard, shards_.size());
    if (fresh) {
      std::string const path = (folder / shard).string();
      require(fs::exists(path, ignored),
              fmt::format("{}: shard is missing; {} places tensor {} there", path, index, name));
      shards_.emplace_back(path);
      files_.push_back(path);
    }
    require(shards_[at->second].contains(name),
            fmt::format("{}: no tensor {}, which {} places there", shards_[at->second].path(), name, index));
    place_.emplace(name, at->second);
    names_.push_back(name);
  }
}

SafetensorsFile const& HuggingFaceWeights::file(std::string const& name) const {
  auto const at = place_.find(name);
  require(at != place_.end(),
          fmt::format("{}: no tensor {}", shards_.size() == 1 ? shards_[0].path() : directory_, name));
  return shards_[at->second];
}

SafetensorInfo const& HuggingFaceWeights::info(std::string const& name) const {
  return file(name).info(name);
}

std::string const& HuggingFaceWeights::file_of(std::string const& name) const { return file(name).path(); }

void HuggingFaceWeights::require_shape(std::string const& name, std::span<Index const> shape) const {
  SafetensorInfo const& found = info(name);
  require(std::equal(found.shape.begin(), found.shape.end(), shape.begin(), shape.end()),
          fmt::format("{}: tensor {} has shape {}, {} is wanted", file_of(name), name,
                      shape_text(found.shape), shape_text(shape)));
}

void HuggingFaceWeights::read(std::string const& name, Index first, std::span<float> out) const {
  file(name).read(name, first, out);
}

}  // namespace upit
