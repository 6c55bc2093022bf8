// SPDX-License-Identifier: Apache-2.0
// Owns the tests of the printed deck: it reads back to itself, names every key, and tells what changed.
#include "upit/config/printer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "upit/config/describe.hpp"
#include "upit/config/reader.hpp"
#include "upit/core/random.hpp"

namespace upit::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Deck reread(Deck const& deck, bool with_comments) {
  return parse_deck(print_deck(deck, with_comments), "elsewhere/d.toml", {});
}

/// A deck in which every key differs from its default.
Deck changed_everywhere() {
  Deck deck;
  for (auto& table : describe(deck))
    for (auto& key : table.keys) {
      if (auto* const* flag = std::get_if<bool*>(&key.value)) **flag = !**flag;
      if (auto* const* seed = std::get_if<std::uint64_t*>(&key.value)) **seed = 123456789012345;
      if (auto* const* index = std::get_if<Index*>(&key.value)) **index += 2;
      if (auto* const* number = std::get_if<double*>(&key.value)) **number = **number / 3 + 0.1;
      if (auto* const* text = std::get_if<std::string*>(&key.value)) {
        if (!key.limits.words.empty())
          **text = key.limits.words.back() == **text ? key.limits.words.front() : key.limits.words.back();
        else if (key.limits.path)
          **text = "/a b/\"quoted\"\\back\tslash\x01\xc3\xa9";
        else if (key.name == "time_limit")
          **text = "01:02:03";
        else
          **text = "x=[1] # y";
      }
    }
  deck.model.width = 160;  // 5 heads would not divide
  deck.model.heads = 8;
  deck.model.kv_heads = 2;
  deck.model.layers = 6;
  deck.expand.strategy = "random";
  deck.data.source = {{"/p/a.jsonl", "code", 1.0}, {"/p/b.jsonl.gz", "", 1.0 / 3.0}};
  return deck;
}

TEST(Printer, DefaultsReadBack) {
  EXPECT_EQ(reread(Deck{}, false), Deck{});
  EXPECT_EQ(reread(Deck{}, true), Deck{});
}

TEST(Printer, EveryKeyReadsBack) {
  Deck const deck = changed_everywhere();
  EXPECT_EQ(reread(deck, false), deck);
  EXPECT_EQ(reread(deck, true), deck);
  EXPECT_EQ(print_deck(reread(deck, false), false), print_deck(deck, false));
}

TEST(Printer, DoublesReadBackBitForBit) {
  RandomKey const key = random_key(7, "printer-test");
  for (std::uint64_t i = 0; i < 200; ++i) {
    Deck deck;
    deck.train.clip = std::exp(40 * random_uniform(key, i) - 15);
    deck.train.epsilon = std::exp(-700 * random_uniform(key, 1000 + i));
    Deck const copy = reread(deck, false);
    EXPECT_EQ(copy.train.clip, deck.train.clip);
    EXPECT_EQ(copy.train.epsilon, deck.train.epsilon);
  }
}

TEST(Printer, TheChangedDeckTouchesEveryKey) {
  // Guards the round trip above: a key added later must take part in it.
  Deck deck = changed_everywhere();
  Deck defaults;
  auto const tables = describe(deck);
  auto const default_tables = describe(defaults);
  for (std::size_t t = 0; t < tables.size(); ++t)
    for (std::size_t k = 0; k < tables[t].keys.size(); ++k) {
      auto const& key = tables[t].keys[k];
      std::string const name = std::string(tables[t].name) + "." + std::string(key.name);
      EXPECT_NE(value_text(key.value), value_text(default_tables[t].keys[k].value)) << name;
    }
}

TEST(Printer, CommentsCarryMeaningUnitAllowedAndDefault) {
  Deck deck;
  deck.train.batch = 32;
  std::string const text = print_deck(deck, true);
  EXPECT_THAT(text, HasSubstr("# In one optimizer step, over all ranks, packed or not. UpIT: 128.\n"
                              "#   samples; an integer, at least 1; default 128\nbatch = 32\n"));
  EXPECT_THAT(text, HasSubstr("#   path = \"\": "));
  EXPECT_THAT(print_deck(deck, false), Not(HasSubstr("#")));
}

TEST(Printer, DefaultsLieWithinTheirLimits) {
  Deck deck;
  for (auto const& table : describe(deck)) {
    EXPECT_FALSE(table.meaning.empty()) << table.name;
    for (auto const& key : table.keys) {
      EXPECT_FALSE(key.meaning.empty()) << table.name << "." << key.name;
      bool right = true;
      if (auto* const* number = std::get_if<double*>(&key.value)) right = within(key.limits, **number);
      if (auto* const* index = std::get_if<Index*>(&key.value))
        right = within(key.limits, static_cast<double>(**index));
      auto const& words = key.limits.words;
      if (auto* const* text = std::get_if<std::string*>(&key.value))
        right = words.empty() || std::find(words.begin(), words.end(), **text) != words.end();
      EXPECT_TRUE(right) << table.name << "." << key.name;
    }
  }
}

TEST(Printer, OneTable) {
  EXPECT_EQ(deck_table(Deck{}, "upcycle"),
            "[upcycle]\nrouter_order = \"topk_softmax\"\nbackbone = \"all\"\n");
  EXPECT_EQ(deck_table(Deck{}, "prepare"),
            "[prepare]\nepochs = 2.0\ncheckpoints = 4\nselect = \"back_half\"\ninclude_base = false\n");
  Deck deck;
  deck.data.source = {{"/a", "", 2.0}};
  EXPECT_THAT(
      deck_table(deck, "data"),
      HasSubstr("loss_on = \"response\"\n\n[[data.source]]\npath = \"/a\"\ndomain = \"\"\nweight = 2.0\n"));
  EXPECT_THROW(deck_table(deck, "nothing"), std::logic_error);
}

TEST(Printer, ChangedKeys) {
  Deck before, now;
  EXPECT_THAT(changed_keys(print_deck(before, false), print_deck(now, false)), IsEmpty());
  now.post_train.top_k = 4;
  now.data.source = {{"/a = b", "", 1.0}};
  EXPECT_THAT(changed_keys(print_deck(before, false), print_deck(now, false)),
              ElementsAre("data.source: was [], is nothing", "post_train.top_k: was 2, is 4",
                          "data.source[0].domain: was nothing, is \"\"",
                          "data.source[0].path: was nothing, is \"/a = b\"",
                          "data.source[0].weight: was nothing, is 1.0"));
}

TEST(Describe, ShortestNumbers) {
  double values[] = {16.0, 0.1, 1e-5, 1e-300, 2e22, 1.0 / 3.0, -0.0, 3e-10};
  std::vector<std::string> texts;
  for (double& value : values) texts.push_back(value_text(&value));
  EXPECT_THAT(texts,
              ElementsAre("16.0", "0.1", "1e-5", "1e-300", "2e+22", "0.3333333333333333", "-0.0", "3e-10"));
}

TEST(Describe, Nearest) {
  std::vector<std::string> const words = {"batch", "beta1", "clip"};
  EXPECT_EQ(nearest("bacth", words), "batch");
  EXPECT_EQ(nearest("beta", words), "beta1");
  EXPECT_EQ(nearest("", words), "clip");
  EXPECT_EQ(nearest("clip", words), "clip");
  EXPECT_EQ(nearest("x", {}), "");
}

}  // namespace
}  // namespace upit::test
