// SPDX-License-Identifier: Apache-2.0
// Owns tests of Hugging Face directories as models: every layout gives the weights it was made from.
#include "upit/train/load_model.hpp"

#include <algorithm>
#include <filesystem>

#include "support/huggingface_directory.hpp"
#include "support/plain_model.hpp"
#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"
#include "unit/io/scratch.hpp"

namespace upit::test {
namespace {

namespace fs = std::filesystem;

struct DirectoryCase {
  std::string name;
  bool tied;
  Index kv_heads;
  HuggingFaceLayout layout;
};

ModelConfig shapes(bool tied, Index kv_heads) {
  ModelConfig m = tiny_model(tied, kv_heads);
  m.rope_theta = 543.0;
  m.norm_eps = 1e-4;
  return m;
}

double loss(ModelConfig const& m, ParameterTable const& table, Weights<float> const& w,
            HostBatch const& host) {
  Transformer<float> transformer(m, {}, table, host.tokens(), false);
  Batch batch(host.tokens());
  batch.assign(host);
  return transformer.forward(Exec(), w, batch, {}, View1<float>());
}

class HuggingFaceModel : public ::testing::TestWithParam<DirectoryCase> {};

TEST_P(HuggingFaceModel, GivesTheWeightsItWasMadeFrom) {
  DirectoryCase const& c = GetParam();
  Scratch const s;
  ModelConfig const m = shapes(c.tied, c.kv_heads);
  ParameterTable const table(m, {});
  auto const w = random_weights<float>(table, 31);
  auto values = flat(w.backbone);
  write_huggingface(s.path(), huggingface_config(m, c.layout),
                    huggingface_tensors(m, table, values, c.layout.dtype), c.layout.shards);
  // What the file can hold of them.
  for (float& value : values) {
    if (c.layout.dtype == "F16") value = float_from_f16(f16_from_float(value));
    if (c.layout.dtype == "BF16") value = float_from_bf16(bf16_from_float(value));
  }
  put_all(w.backbone.data(), values);
  EXPECT_EQ(huggingface_shapes(s.path(), 0), m);

  Weights<float> const read(table);
  load_huggingface(s.path(), table, m, read);
  EXPECT_EQ(flat(read), flat(w));

  LoadedModel const loaded = load_model(s.path(), Communicator::world());
  EXPECT_EQ(loaded.info.kind, "dense");
  EXPECT_EQ(loaded.info.model, m);
  EXPECT_EQ(loaded.info.expert, ExpertConfig{});
  HostBatch const host = random_batch({9, 1, 70}, m.vocabulary, 3);
  double const found = loss(loaded.info.model, *loaded.table, loaded.weights, host);
  EXPECT_EQ(found, loss(m, table, w, host));
  // And by plain loops over the same values, within fp32 (some 300 roundings of 6e-8).
  Weights<double> const wide(table);
  put_all(wide.backbone.data(), std::vector<double>(values.begin(), values.end()));
  PlainModel const plain(m, {}, table, wide);
  double sum = 0.0;
  for (Index k = 0; k < host.segments(); ++k) {
    auto const begin = host.start[static_cast<std::size_t>(k)],
               end = host.start[static_cast<std::size_t>(k) + 1];
    for (double const nll : plain.nll({host.token.begin() + begin, host.token.begin() + end},
                                      {host.target.begin() + begin, host.target.begin() + end})) {
      sum += nll;
    }
  }
  EXPECT_NEAR(found, sum, 1e-5 * sum);
}

INSTANTIATE_TEST_SUITE_P(Layouts, HuggingFaceModel,
                         ::testing::Values(DirectoryCase{"tied", true, 4, {}},
                                           DirectoryCase{"untied", false, 4, {}},
                                           DirectoryCase{"grouped", true, 2, {"F32", 1, true}},
                                           DirectoryCase{"one_group_f16", false, 1, {"F16", 1, false}},
                                           DirectoryCase{"bf16", true, 2, {"BF16", 1, true}},
                                           DirectoryCase{"sharded", false, 2, {"F32", 3, false}},
                                           DirectoryCase{"sharded_bf16", true, 4, {"BF16", 2, true}}),
                         [](auto const& info) { return info.param.name; });

/// A directory that a test spoils before it is read.
struct Spoiled {
  Scratch s;
  ModelConfig m = shapes(false, 2);
  ParameterTable table{m, {}};
  std::vector<float> backbone = flat(random_weights<float>(table, 32).backbone);
  nlohmann::json config = huggingface_config(m, {});
  std::vector<SafetensorOut> tensors = huggingface_tensors(m, table, backbone, "F32");

  SafetensorOut& tensor(std::string const& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](auto const& t) { return t.name == name; });
  }
  void remove(std::string const& name) {
    std::erase_if(tensors, [&](auto const& t) { return t.name == name; });
  }
  void write(int shards = 1) { write_huggingface(s.path(), config, tensors, shards); }
  void expect(std::vector<std::string> const& parts) {
    expect_error([&] { load_model(s.path(), Communicator::world()); }, parts);
  }
};

TEST(HuggingFaceErrors, AMissingTensorIsNamed) {
  for (auto const* name : {"lm_head.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"}) {
    Spoiled d;
    d.remove(name);
    d.write();
    d.expect({d.s.path(), name});
  }
}

TEST(HuggingFaceErrors, AWrongShapeIsNamed) {
  Spoiled d;
  auto& k = d.tensor("model.layers.1.self_attn.k_proj.weight");
  k.shape = {12, 8};
  d.write();
  d.expect({"model.safetensors", "model.layers.1.self_attn.k_proj.weight", "(12, 8)", "(8, 12)"});
}

TEST(HuggingFaceErrors, AnotherVocabularyIsNamed) {
  Spoiled d;
  d.config["vocab_size"] = 18;
  d.write();
  d.expect({"model.embed_tokens.weight", "(17, 12)", "(18, 12)"});
}

TEST(HuggingFaceErrors, FewerLayersInTheFileThanInTheConfig) {
  Spoiled d;
  d.config["num_hidden_layers"] = 3;
  d.write();
  d.expect({"model.layers.2."});
}

TEST(HuggingFaceErrors, ATruncatedFileIsNamed) {
  for (int const shards : {1, 2}) {
    Spoiled d;
    d.write(shards);
    std::string const file = d.s.path(shards == 1 ? "model.safetensors" : "model-00002-of-00002.safetensors");
    fs::resize_file(file, fs::file_size(file) - 4);
    d.expect({file});
  }
}

TEST(HuggingFaceErrors, AMissingShardIsNamed) {
  Spoiled d;
  d.write(3);
  fs::remove(d.s.path("model-00002-of-00003.safetensors"));
  d.expect({"model-00002-of-00003.safetensors"});
}

TEST(HuggingFaceErrors, NoWeightsAtAll) {
  Spoiled d;
  d.write();
  fs::remove(d.s.path("model.safetensors"));
  d.expect({d.s.path(), "model.safetensors"});
}

TEST(HuggingFaceErrors, AContextBeyondTheModelsOwn) {
  Spoiled d;
  d.write();
  EXPECT_EQ(huggingface_shapes(d.s.path(), 50).context, 50);
  EXPECT_EQ(huggingface_shapes(d.s.path(), 96).context, 96);
  expect_error([&] { huggingface_shapes(d.s.path(), 97); }, {"data.context", "97", "config.json", "96"});
}

}  // namespace
}  // namespace upit::test
