// SPDX-License-Identifier: Apache-2.0
// Owns tests of Hugging Face directories: the meaning of config.json, single files and shards, a real model.
#include "upit/io/huggingface.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "scratch.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;
using Json = nlohmann::json;

namespace {

Json base_config() {
  return {{"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 172},
          {"num_hidden_layers", 5},
          {"num_attention_heads", 8},
          {"vocab_size", 512},
          {"hidden_act", "silu"},
          {"rms_norm_eps", 1e-5},
          {"bos_token_id", 1},
          {"eos_token_id", 2},
          {"max_position_embeddings", 256}};
}

HuggingFaceConfig read_with(Scratch const& s, Json const& changes) {
  Json config = base_config();
  config.update(changes);
  s.write("config.json", config.dump());
  return read_huggingface_config(s.path());
}

}  // namespace

TEST(HuggingFaceConfig, DefaultsAndValues) {
  Scratch const s;
  HuggingFaceConfig c = read_with(s, Json::object());
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_EQ(c.intermediate_size, 172);
  EXPECT_EQ(c.num_hidden_layers, 5);
  EXPECT_EQ(c.num_attention_heads, 8);
  EXPECT_EQ(c.num_key_value_heads, 8);
  EXPECT_EQ(c.head_dim, 8);
  EXPECT_EQ(c.vocab_size, 512);
  EXPECT_EQ(c.max_position_embeddings, 256);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.rope_theta, 10000.0);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_EQ(c.eos_token_ids, std::vector<int>{2});

  c = read_with(s, {{"num_key_value_heads", 2},
                    {"head_dim", 16},
                    {"tie_word_embeddings", true},
                    {"rope_theta", 500000},
                    {"bos_token_id", nullptr},
                    {"eos_token_id", {5, 7}},
                    {"rope_scaling", nullptr},
                    {"attention_bias", false},
                    {"mlp_bias", false}});
  EXPECT_EQ(c.num_key_value_heads, 2);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_EQ(c.rope_theta, 500000.0);
  EXPECT_EQ(c.bos_token_id, -1);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int>{5, 7}));
}

TEST(HuggingFaceConfig, RotaryBaseAtTheTopOrBelow) {
  Scratch const s;
  EXPECT_EQ(
      read_with(s, {{"rope_parameters", {{"rope_theta", 1234.5}, {"rope_type", "default"}}}}).rope_theta,
      1234.5);
  EXPECT_EQ(read_with(s, {{"rope_theta", 50.0}, {"rope_parameters", {{"rope_theta", 50.0}}}}).rope_theta,
            50.0);
  EXPECT_EQ(read_with(s, {{"rope_scaling", {{"type", "default"}}}}).rope_theta, 10000.0);
  expect_error(
      [&] {
        read_with(s, {{"rope_theta", 1.0}, {"rope_parameters", {{"rope_theta", 2.0}}}});
      },
      {"config.json", "rope_theta", "1", "2"});
}

TEST(HuggingFaceConfig, WhatIsNotSupportedIsNamed) {
  Scratch const s;
  struct Case {
    Json change;
    std::vector<std::string> parts;
  };
  std::vector<Case> const cases = {
      {{{"model_type", "mistral"}}, {"model_type", "mistral", "llama"}},
      {{{"model_type", nullptr}}, {"model_type", "missing"}},
      {{{"hidden_act", "gelu"}}, {"hidden_act", "gelu", "silu"}},
      {{{"attention_bias", true}}, {"attention_bias", "true"}},
      {{{"mlp_bias", true}}, {"mlp_bias", "true"}},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}, {"rope_scaling", "linear", "unsupported"}},
      {{{"rope_scaling", {{"rope_type", "llama3"}}}}, {"rope_scaling", "llama3", "unsupported"}},
      {{{"rope_scaling", {{"factor", 2.0}}}}, {"rope_scaling", "factor", "unsupported"}},
      {{{"rope_scaling", 2.0}}, {"rope_scaling"}},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, {"rope_parameters", "yarn", "unsupported"}},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, {"rope_parameters", "0.5"}},
      {{{"quantization_config", {{"bits", 4}}}}, {"quantization_config", "unsupported"}},
      {{{"hidden_size", nullptr}}, {"hidden_size", "missing"}},
      {{{"hidden_size", "64"}}, {"hidden_size", "\"64\"", "whole number"}},
      {{{"vocab_size", 0}}, {"vocab_size", "0"}},
      {{{"num_hidden_layers", -1}}, {"num_hidden_layers", "-1"}},
      {{{"intermediate_size", 1.5}}, {"intermediate_size", "1.5"}},
      {{{"intermediate_size", 4294967296}}, {"intermediate_size", "2^31"}},
      {{{"num_attention_heads", 7}}, {"num_attention_heads", "7", "64"}},
      {{{"num_key_value_heads", 3}}, {"num_key_value_heads", "3", "8"}},
      {{{"head_dim", 7}}, {"head_dim", "7", "even"}},
      {{{"rms_norm_eps", 0}}, {"rms_norm_eps", "positive"}},
      {{{"rope_theta", -1}}, {"rope_theta", "positive"}},
      {{{"tie_word_embeddings", 1}}, {"tie_word_embeddings", "true or false"}},
      {{{"eos_token_id", "</s>"}}, {"eos_token_id", "token id"}},
  };
  for (Case const& c : cases) {
    SCOPED_TRACE(c.change.dump());
    std::vector<std::string> parts = c.parts;
    parts.push_back(s.path("config.json"));
    expect_error([&] { read_with(s, c.change); }, parts);
  }
  s.write("config.json", "{\"hidden_size\": ");
  expect_error([&] { read_huggingface_config(s.path()); }, {"config.json", "not JSON"});
  s.write("config.json", "[1]");
  expect_error([&] { read_huggingface_config(s.path()); }, {"config.json", "not a JSON object"});
  expect_error([&] { read_huggingface_config(s.path("none")); }, {"none/config.json", "No such file"});
}

TEST(HuggingFaceWeights, SingleFile) {
  Scratch const s;
  std::vector<float> const values = {1, 2, 3, 4, 5, 6};
  std::vector<SafetensorOut> const out = {{"w", "BF16", {2, 3}, values}};
  write_safetensors(s.path("model.safetensors"), out);
  HuggingFaceWeights const w(s.path());
  std::vector<float> got(3);
  w.read("w", 3, got);
  EXPECT_EQ(got, (std::vector<float>{4, 5, 6}));
  EXPECT_EQ(w.files(), std::vector<std::string>{s.path("model.safetensors")});
  std::vector<Index> const right = {2, 3};
  std::vector<Index> const wrong = {3, 2};
  EXPECT_NO_THROW(w.require_shape("w", right));
  expect_error([&] { w.require_shape("w", wrong); },
               {s.path("model.safetensors"), "tensor w", "(2, 3)", "(3, 2)"});
  expect_error([&] { w.require_shape("v", right); }, {s.path("model.safetensors"), "no tensor v"});
}

TEST(HuggingFaceWeights, Shards) {
  Scratch const s;
  std::vector<float> const a = {1, 2};
  std::vector<float> const b = {3, 4, 5};
  std::vector<SafetensorOut> const first = {{"a", "F32", {2}, a}};
  std::vector<SafetensorOut> const second = {{"b", "F16", {3}, b}};
  write_safetensors(s.path("m-1.safetensors"), first);
  write_safetensors(s.path("m-2.safetensors"), second);
  Json index = {{"metadata", {{"total_size", 14}}},
                {"weight_map", {{"a", "m-1.safetensors"}, {"b", "m-2.safetensors"}}}};
  s.write("model.safetensors.index.json", index.dump());
  HuggingFaceWeights const w(s.path());
  std::vector<float> got(3);
  w.read("b", 0, got);
  EXPECT_EQ(got, b);
  EXPECT_EQ(w.file_of("a"), s.path("m-1.safetensors"));
  EXPECT_THAT(w.names(), ::testing::UnorderedElementsAre("a", "b"));
  EXPECT_EQ(w.files().size(), 3u);

  index["weight_map"]["c"] = "m-2.safetensors";
  s.write("model.safetensors.index.json", index.dump());
  expect_error([&] { HuggingFaceWeights const x(s.path()); },
               {s.path("m-2.safetensors"), "no tensor c", "index.json"});
  index["weight_map"]["c"] = "m-3.safetensors";
  s.write("model.safetensors.index.json", index.dump());
  expect_error([&] { HuggingFaceWeights const x(s.path()); },
               {s.path("m-3.safetensors"), "missing", "tensor c"});
  for (Json const& bad : {Json("../m-1.safetensors"), Json(""), Json(".."), Json(3)}) {
    index["weight_map"]["c"] = bad;
    s.write("model.safetensors.index.json", index.dump());
    expect_error([&] { HuggingFaceWeights const x(s.path()); }, {"index.json", "weight_map.c"});
  }
  s.write("model.safetensors.index.json", "{}");
  expect_error([&] { HuggingFaceWeights const x(s.path()); }, {"index.json", "weight_map"});
}

TEST(HuggingFaceWeights, NothingThere) {
  Scratch const s;
  expect_error([&] { HuggingFaceWeights const w(s.path()); }, {s.path(), "model.safetensors", "index.json"});
}

TEST(HuggingFaceWeights, RealModel) {
  std::string const directory = std::string(UPIT_SHARED_DATA) + "/models/stories260K";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << "no real model at " << directory;
  HuggingFaceConfig const c = read_huggingface_config(directory);
  EXPECT_EQ(c.num_key_value_heads, 4);
  EXPECT_TRUE(c.tie_word_embeddings);
  HuggingFaceWeights const w(directory);
  std::vector<Index> const embedding = {c.vocab_size, c.hidden_size};
  std::vector<Index> const keys = {c.num_key_value_heads * c.head_dim, c.hidden_size};
  w.require_shape("model.embed_tokens.weight", embedding);
  w.require_shape("model.layers.4.self_attn.k_proj.weight", keys);
  Index parameters = 0;
  double squares = 0;
  for (std::string const& name : w.names()) {
    std::vector<float> values(static_cast<std::size_t>(w.info(name).elements()));
    w.read(name, 0, values);
    parameters += static_cast<Index>(values.size());
    for (float const v : values) squares += static_cast<double>(v) * v;
  }
  EXPECT_GE(parameters, 260032);  // as its README says, tied head counted once
  EXPECT_TRUE(std::isfinite(squares));
  EXPECT_GT(squares, 0);
}
