// SPDX-License-Identifier: Apache-2.0
// Owns the tests of tokenizers and templates.
#include "upit/text/tokenizer.hpp"

#include "unit/text/support.hpp"
#include "upit/text/template.hpp"

namespace upit {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

using test::message_of;
using test::Scratch;
using test::shared_data;

TEST(ByteTokenizer, GivesEveryByteBack) {
  auto const tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocabulary(), 258);
  EXPECT_EQ(tokenizer->bos(), 0);
  EXPECT_EQ(tokenizer->eos(), 1);
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(b));
  std::vector<int> const tokens = tokenizer->encode(all);
  ASSERT_EQ(tokens.size(), 256u);
  for (int b = 0; b < 256; ++b) EXPECT_EQ(tokens[static_cast<std::size_t>(b)], b + 2);
  EXPECT_EQ(tokenizer->decode(tokens), all);
  EXPECT_TRUE(tokenizer->encode("").empty());
  EXPECT_EQ(tokenizer->decode(std::vector<int>{0, 'a' + 2, 1}), "a");
  EXPECT_THAT(message_of([&] { tokenizer->decode(std::vector<int>{258}); }), HasSubstr("258"));
  EXPECT_THAT(message_of([&] { tokenizer->decode(std::vector<int>{-1}); }), HasSubstr("-1"));
}

TEST(SentencePiece, ReadsStories260K) {
  std::string const path = shared_data("models/stories260K/tokenizer.model");
  if (path.empty()) GTEST_SKIP() << "no shared data at " << UPIT_SHARED_DATA;
  auto const tokenizer = make_tokenizer(path);
  EXPECT_EQ(tokenizer->vocabulary(), 512);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  std::string const sentence =
      "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, "
      "she "
      "saw a big, red ball.";
  std::vector<int> const tokens = tokenizer->encode(sentence);
  ASSERT_EQ(tokens.size(), 44u);  // 45 with BOS
  EXPECT_THAT(std::vector<int>(tokens.begin(), tokens.begin() + 4), ElementsAre(403, 407, 261, 378));
  EXPECT_EQ(tokenizer->decode(tokens), sentence);
  // A character that the model has no piece for falls back to its bytes, as does a line break.
  std::string const rare = "a\n\xe2\x82\xac";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(rare)), rare);
  EXPECT_THAT(message_of([&] { tokenizer->decode(std::vector<int>{512}); }), HasSubstr("512"));
}

TEST(SentencePiece, NamesAMissingOrBrokenFile) {
  EXPECT_THAT(message_of([] { make_tokenizer("no/such/tokenizer.model"); }),
              AllOf(HasSubstr("no/such/tokenizer.model"), HasSubstr("no such file"), HasSubstr("bytes")));
  EXPECT_THAT(message_of([] { make_tokenizer("."); }), HasSubstr("no such file"));  // a folder
  Scratch const folder;
  for (std::string const& content : {std::string("this is no protobuf message"), std::string()}) {
    std::string const path = folder.write("broken.model", content);
    std::string const message = message_of([&] { make_tokenizer(path); });
    EXPECT_THAT(message, AllOf(HasSubstr(path), HasSubstr("no SentencePiece model")));
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

TEST(SentencePiece, NamesATruncatedFile) {
  std::string const whole = shared_data("models/stories260K/tokenizer.model");
  if (whole.empty()) GTEST_SKIP() << "no shared data at " << UPIT_SHARED_DATA;
  Scratch const folder;
  std::string const path = folder.path("cut.model");
  std::filesystem::copy_file(whole, path);
  std::filesystem::permissions(path, std::filesystem::perms::owner_write, std::filesystem::perm_options::add);
  std::filesystem::resize_file(path, std::filesystem::file_size(whole) / 2);
  EXPECT_THAT(message_of([&] { make_tokenizer(path); }), HasSubstr(path));
}

TEST(Template, SpansOfPlain) {
  auto const tokenizer = make_tokenizer("bytes");
  EXPECT_EQ(prompt_text(PromptFormat::plain, "Add 1 and 2.", ""), "Add 1 and 2.\n>");
  EXPECT_EQ(prompt_text(PromptFormat::plain, "Fix.", "print(1"), "Fix.\nprint(1\n>");
  EncodedSample const sample = encode_sample(PromptFormat::plain, {"Hi", "x", "yes"}, *tokenizer);
  auto const b = [](char c) { return c + 2; };
  EXPECT_THAT(sample.tokens,
              ElementsAre(0, b('H'), b('i'), b('\n'), b('x'), b('\n'), b('>'), b('y'), b('e'), b('s'), 1));
  EXPECT_EQ(sample.response, 7);
  EXPECT_THAT(encode_prompt(PromptFormat::plain, "Hi", "x", *tokenizer),
              ElementsAreArray(sample.tokens.data(), 7));

  TokenStore store;
  store.domains = {"d"};
  store.append(sample.tokens, sample.response, 0);
  EXPECT_EQ(store.input_tokens(0), 10);
  EXPECT_EQ(store.targets(0, false), 4);  // y, e, s and EOS
  EXPECT_EQ(store.targets(0, true), 10);
}

TEST(Template, AlpacaWithAndWithoutInput) {
  std::string const with = prompt_text(PromptFormat::alpaca, "Do it.", "data");
  EXPECT_THAT(with, AllOf(HasSubstr("paired with an input"), HasSubstr("### Instruction:\nDo it.\n\n"),
                          HasSubstr("### Input:\ndata\n\n### Response:\n")));
  std::string const without = prompt_text(PromptFormat::alpaca, "Do it.", "");
  EXPECT_THAT(without, AllOf(HasSubstr("describes a task. Write"), HasSubstr("Do it.\n\n### Response:\n")));
  EXPECT_EQ(without.find("### Input"), std::string::npos);
  auto const tokenizer = make_tokenizer("bytes");
  EncodedSample const sample = encode_sample(PromptFormat::alpaca, {"Do it.", "", ""}, *tokenizer);
  EXPECT_EQ(sample.response, static_cast<int>(without.size()) + 1);
  EXPECT_EQ(sample.tokens.back(), 1);  // an empty output is one target, EOS
  EXPECT_EQ(sample.tokens.size(), without.size() + 2);
  EXPECT_EQ(prompt_format("alpaca"), PromptFormat::alpaca);
  EXPECT_THAT(message_of([] { prompt_format("chatml"); }), AllOf(HasSubstr("chatml"), HasSubstr("plain")));
}

TEST(Template, TruncationKeepsBosAndResponse) {
  auto const numbered = [](int prompt, int response) {
    EncodedSample sample;
    for (int i = 0; i < prompt + response; ++i) sample.tokens.push_back(i);
    sample.response = prompt;
    return sample;
  };
  EncodedSample fits = numbered(5, 3);
  EXPECT_FALSE(truncate_sample(fits, 8, true));
  EXPECT_EQ(fits.tokens.size(), 8u);

  EncodedSample long_response = numbered(4, 20);
  EXPECT_TRUE(truncate_sample(long_response, 8, true));
  EXPECT_THAT(long_response.tokens, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(long_response.response, 4);

  EncodedSample long_prompt =
      numbered(20, 10);  // a quarter of 8 is kept of the response, the prompt's end of 6
  EXPECT_TRUE(truncate_sample(long_prompt, 8, true));
  EXPECT_THAT(long_prompt.tokens, ElementsAre(0, 15, 16, 17, 18, 19, 20, 21));
  EXPECT_EQ(long_prompt.response, 6);

  EncodedSample short_response = numbered(20, 1);
  EXPECT_TRUE(truncate_sample(short_response, 8, false));
  EXPECT_THAT(short_response.tokens, ElementsAre(13, 14, 15, 16, 17, 18, 19, 20));
  EXPECT_EQ(short_response.response, 7);
}

}  // namespace
}  // namespace upit
