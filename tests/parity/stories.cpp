// SPDX-License-Identifier: Apache-2.0
// Owns the check of a real model: stories260K (karpathy's tinyllamas) and its tokenizer on one sentence. The
// number was made by an independent program; see the README beside the model.
#include <gtest/gtest.h>

#include <filesystem>

#include "upit/model/transformer.hpp"
#include "upit/text/tokenizer.hpp"
#include "upit/train/load_model.hpp"

namespace upit::test {
namespace {

std::string const kModel = UPIT_SHARED_DATA "/models/stories260K";
constexpr char const* kSentence =
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
    "she "
    "saw a big, red ball.";

TEST(Stories260K, LossOfASentence) {
  if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "no real model: " << kModel << " is not there";
  auto const tokenizer = make_tokenizer(kModel + "/tokenizer.model");
  std::vector<int> tokens = {tokenizer->bos()};
  auto const text = tokenizer->encode(kSentence);
  tokens.insert(tokens.end(), text.begin(), text.end());
  ASSERT_EQ(tokens.size(), 45u);
  EXPECT_EQ(std::vector<int>(tokens.begin(), tokens.begin() + 5), (std::vector<int>{1, 403, 407, 261, 378}));
  EXPECT_EQ(tokenizer->decode(tokens), kSentence);

  ModelConfig const model = huggingface_shapes(kModel, 0);
  EXPECT_EQ(model.vocabulary, tokenizer->vocabulary());
  EXPECT_EQ(model.kv_heads, 4);
  ParameterTable const table(model, {});
  Weights<float> const weights(table);
  load_huggingface(kModel, table, model, weights);
  HostBatch host;
  host.append({tokens.begin(), tokens.end() - 1}, {tokens.begin() + 1, tokens.end()}, 0);
  Batch batch(host.tokens());
  batch.assign(host);
  Transformer<float> transformer(model, {}, table, host.tokens(), false);
  double const mean = transformer.forward(Exec(), weights, batch, {}, View1<float>()) / 44.0;
  // Half of the last digit given, and fp32 (1e-6 of the loss).
  EXPECT_NEAR(mean, 0.32410, 1e-5);
}

}  // namespace
}  // namespace upit::test
