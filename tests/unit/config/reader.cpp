// SPDX-License-Identifier: Apache-2.0
// Owns the tests of reading a deck: values, overrides, paths, and every kind of fault.
#include "upit/config/reader.hpp"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "support.hpp"
#include "upit/config/describe.hpp"

namespace upit::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

Deck parse(std::string const& text, std::vector<std::string> const& overrides = {},
           std::string const& file = "decks/d.toml") {
  return parse_deck(text, file, overrides, "/home");
}

TEST(Reader, EmptyTextGivesDefaults) { EXPECT_EQ(parse(""), Deck{}); }

TEST(Reader, SetsEveryKind) {
  Deck const deck = parse(
      "[run]\ndirectory = \"runs/a\"\nseed = 7\n[data]\npacking = true\n[train]\nclip = 2\nlearning_rate = "
      "3e-4\n"
      "batch = 64\n");
  EXPECT_EQ(deck.run.directory, "runs/a");
  EXPECT_EQ(deck.run.seed, 7u);
  EXPECT_TRUE(deck.data.packing);
  EXPECT_EQ(deck.train.clip, 2.0);  // an integer is a number
  EXPECT_EQ(deck.train.learning_rate, 3e-4);
  EXPECT_EQ(deck.train.batch, 64);
}

TEST(Reader, PathsComeFromTheDecksFolderAndOverridesFromHere) {
  std::string const text =
      "[model]\nbase = \"../m/base\"\n[data]\ntokenizer = \"/abs/tokenizer.model\"\n"
      "[[data.source]]\npath = \"a.jsonl\"\n[run]\ndirectory = \"runs/x\"\n";
  Deck const deck = parse(text);
  EXPECT_EQ(deck.model.base, "/home/m/base");
  EXPECT_EQ(deck.data.tokenizer, "/abs/tokenizer.model");
  ASSERT_EQ(deck.data.source.size(), 1u);
  EXPECT_EQ(deck.data.source[0].path, "/home/decks/a.jsonl");
  EXPECT_EQ(deck.run.directory, "runs/x");
  Deck const changed = parse(text, {"model.base=m2", "data.tokenizer=bytes"});
  EXPECT_EQ(changed.model.base, "/home/m2");
  EXPECT_EQ(changed.data.tokenizer, "bytes");
  EXPECT_EQ(parse("[model]\nbase = \"m\"\n", {}, "/deep/d.toml").model.base, "/deep/m");
}

TEST(Reader, Overrides) {
  Deck const deck = parse("[post_train]\ntop_k = 3\n",
                          {"post_train.top_k=4", "lora.mix=ffn", "lora.alpha = 8", "run.directory=\"a b\"",
                           "run.time_limit=3600", "data.packing=true", "post_train.top_k=5",
                           "data.source=[{path=\"x.jsonl\", weight=3}, {path=\"y.jsonl\", domain=\"d\"}]"});
  EXPECT_EQ(deck.post_train.top_k, 5);  // the last one wins
  EXPECT_EQ(deck.lora.mix, "ffn");
  EXPECT_EQ(deck.lora.alpha, 8.0);
  EXPECT_EQ(deck.run.directory, "a b");
  EXPECT_EQ(deck.run.time_limit, "3600");
  EXPECT_TRUE(deck.data.packing);
  ASSERT_EQ(deck.data.source.size(), 2u);
  EXPECT_EQ(deck.data.source[0].path, "/home/x.jsonl");
  EXPECT_EQ(deck.data.source[0].weight, 3.0);
  EXPECT_EQ(deck.data.source[1].domain, "d");
}

TEST(Reader, AnOverrideReplacesTheSourcesOfTheDeck) {
  Deck const deck =
      parse("[[data.source]]\npath = \"a\"\n[[data.source]]\npath = \"b\"\n", {"data.source=[{path=\"c\"}]"});
  ASSERT_EQ(deck.data.source.size(), 1u);
  EXPECT_EQ(deck.data.source[0].path, "/home/c");
}

TEST(ReaderFaults, UnknownKeyNamesTheNearest) {
  EXPECT_THAT(faults("[train]\n\nbacth = 64\n"),
              ElementsAre(AllOf(
                  StartsWith("d.toml:3: train.bacth: unknown key; known in [train]: micro_batch, batch,"),
                  HasSubstr("did you mean \"batch\"?"))));
}

TEST(ReaderFaults, KeyOfAnotherTable) {
  EXPECT_THAT(faults("[train]\ntop_k = 2\n"), ElementsAre(HasSubstr("did you mean \"post_train.top_k\"?")));
}

TEST(ReaderFaults, UnknownTable) {
  EXPECT_THAT(faults("[run]\n[experts]\ncount = 16\n"),
              ElementsAre(AllOf(StartsWith("d.toml:2: experts: unknown table; known: [run], [model]"),
                                HasSubstr("did you mean \"expert\"?"))));
}

TEST(ReaderFaults, KeyOutsideOfAnyTable) {
  EXPECT_THAT(faults("seed = 3\n"),
              ElementsAre(AllOf(StartsWith("d.toml:1: seed: unknown key outside of any table"),
                                HasSubstr("did you mean \"run.seed\"?"))));
  EXPECT_THAT(faults("train = 3\n"), ElementsAre("d.toml:1: train: found 3, allowed: a table [train]"));
}

TEST(ReaderFaults, WrongTypes) {
  EXPECT_THAT(
      faults("[train]\nbatch = \"128\"\nclip = true\n[data]\npacking = 1\n[lora]\nmix = 2\n"
             "[run]\ntime_limit = 00:05:00\nseed = 1.0\ndirectory = [1]\n"),
      ElementsAre("d.toml:2: train.batch: found \"128\", allowed: an integer, at least 1",
                  "d.toml:3: train.clip: found true, allowed: a number, above 0",
                  "d.toml:5: data.packing: found 1, allowed: true or false",
                  "d.toml:7: lora.mix: found 2, allowed: \"branch\", \"ffn\"",
                  "d.toml:9: run.time_limit: found a date or time (text stands in quotes), allowed: text",
                  "d.toml:10: run.seed: found 1.0, allowed: an integer, at least 0",
                  "d.toml:11: run.directory: found an array, allowed: text"));
}

TEST(ReaderFaults, OutOfRange) {
  EXPECT_THAT(
      faults("[train]\nbatch = 0\nbeta1 = 1.0\nclip = 0\nlearning_rate = nan\nweight_decay = inf\n"
             "[run]\nseed = -1\ncheckpoint_every = 2000000000000\n"),
      ElementsAre(HasSubstr("d.toml:2: train.batch: found 0, allowed: an integer, at least 1"),
                  "d.toml:3: train.beta1: found 1.0, allowed: a number, at least 0, below 1",
                  HasSubstr("d.toml:4: train.clip: found 0, allowed: a number, above 0"),
                  HasSubstr("d.toml:5: train.learning_rate: found nan"),
                  HasSubstr("d.toml:6: train.weight_decay: found inf"),
                  HasSubstr("d.toml:8: run.seed: found -1"),
                  HasSubstr("found 2000000000000, allowed: an integer, at least 1, at most 1000000000000")));
}

TEST(ReaderFaults, IntegerBeyond64Bits) {
  // toml11 3.7 saturates, 4 refuses: no key may take the saturated value.
  Deck deck;
  for (auto const& table : describe(deck)) {
    for (auto const& key : table.keys) {
      if (!std::holds_alternative<Index*>(key.value) && !std::holds_alternative<std::uint64_t*>(key.value))
        continue;
      EXPECT_THAT(faults(fmt::format("[{}]\n{} = 99999999999999999999999\n", table.name, key.name)),
                  ElementsAre(StartsWith("d.toml:2: ")));
    }
  }
}

TEST(ReaderFaults, Words) {
  EXPECT_THAT(faults("[expert]\nkind = \"fnn\"\n"),
              ElementsAre("d.toml:2: expert.kind: found \"fnn\", allowed: \"lora\", \"ffn\"; did you mean "
                          "\"ffn\"?"));
  EXPECT_THAT(faults("[parallel]\nexpert = 2\n"),
              ElementsAre(HasSubstr("LoRA experts are small and stay whole on every rank")));
  EXPECT_THAT(faults("[train]\nprecision = \"fp16\"\n"),
              ElementsAre(HasSubstr("train.precision: found \"fp16\", allowed: \"fp32\", \"bf16\"")));
  EXPECT_EQ(parse("[train]\nprecision = \"bf16\"\n").train.precision, "bf16");
  EXPECT_THAT(faults("[prepare]\nselect = \"fronthalf\"\n"),
              ElementsAre(HasSubstr("did you mean \"front_half\"?")));
}

TEST(ReaderFaults, Sources) {
  EXPECT_THAT(
      faults("[data]\nsource = \"a.jsonl\"\n"),
      ElementsAre("d.toml:2: data.source: found \"a.jsonl\", allowed: an array of tables [[data.source]]"));
  EXPECT_THAT(faults("[data.source]\npath = \"a\"\n"),
              ElementsAre(HasSubstr("d.toml:1: data.source: found a table")));
  EXPECT_THAT(faults("[data]\nsource = [\"a.jsonl\"]\n"),
              ElementsAre(HasSubstr("d.toml:2: data.source: found \"a.jsonl\" in the array")));
  EXPECT_THAT(
      faults("[[data.source]]\nweight = 1\n\n[[data.source]]\npath = \"b\"\nwieght = 2\n"
             "[[data.source]]\npath = \"b\"\nweight = 0\n"),
      ElementsAre("d.toml:1: data.source.path: found nothing, allowed: a path",
                  AllOf(StartsWith("d.toml:6: data.source.wieght: unknown key; known in [data.source]: path"),
                        HasSubstr("did you mean \"weight\"?")),
                  HasSubstr("d.toml:7: data.source.path: found \"/home/b\" a second time"),
                  HasSubstr("d.toml:9: data.source.weight: found 0, allowed: a number, above 0")));
}

TEST(ReaderFaults, SyntaxInOneLine) {
  EXPECT_THAT(faults("[train]\nbatch 64\n"),
              ElementsAre(AllOf(StartsWith("d.toml:2: not TOML: "), HasSubstr("separator"),
                                HasSubstr("found: batch 64"))));
  EXPECT_THAT(faults("[lora]\nrank = 8\nmix = ffn\n"),
              ElementsAre(AllOf(StartsWith("d.toml:3: not TOML: "), HasSubstr("text stands in quotes"))));
  EXPECT_THAT(faults("[lora]\nrank = 8\nrank = 9\n"),
              ElementsAre(AllOf(StartsWith("d.toml:3: "), HasSubstr("already exists"))));
  EXPECT_THAT(faults("[lora]\n[train]\n[lora]\n"), ElementsAre(StartsWith("d.toml:3: not TOML: ")));
  EXPECT_THAT(faults("[lora\n"), ElementsAre(StartsWith("d.toml:1: not TOML: ")));
  EXPECT_THAT(faults("[lora]\nmix = \"ffn\n"), ElementsAre(StartsWith("d.toml:2: not TOML: ")));
  EXPECT_THAT(faults("[lora]\nmix = \"\xff\"\n"), ElementsAre(StartsWith("d.toml:2: not TOML: ")));
}

TEST(ReaderFaults, CommandLine) {
  EXPECT_THAT(
      faults("", {"top_k", "post_train.topk=2", "lora.mix=both", "train.batch=two", "train.batch=1\nx = 2",
                  "train.batch=", "postrain.top_k=2", "train.batch=0", "data.source=[1]"}),
      ElementsAre(
          "command line: found \"top_k\", allowed: table.key=value, as in post_train.top_k=4",
          AllOf(StartsWith("command line: post_train.topk: unknown key"),
                HasSubstr("did you mean \"top_k\"?")),
          "command line: lora.mix: found \"both\", allowed: \"branch\", \"ffn\"; did you mean \"branch\"?",
          StartsWith("command line: train.batch: found \"two\", allowed: an integer"),
          StartsWith("command line: train.batch: found \"1\\nx = 2\", allowed"),
          StartsWith("command line: train.batch: found nothing, allowed: an integer"),
          AllOf(StartsWith("command line: postrain: unknown table"),
                HasSubstr("did you mean \"post_train\"?")),
          StartsWith("command line: train.batch: found 0, allowed: an integer"),
          StartsWith("command line: data.source: found 1 in the array")));
}

TEST(ReaderFaults, AllTogetherInOrderOfLines) {
  EXPECT_THAT(
      faults("[lora]\nrank = 0\n[expert]\nkind = \"x\"\ncount = 3\n[train]\nlr = 1\n", {"run.seeds=2"}),
      ElementsAre(StartsWith("d.toml:2: lora.rank"), StartsWith("d.toml:4: expert.kind"),
                  StartsWith("d.toml:5: expert.count: found 3, allowed: at least prepare.checkpoints = 4"),
                  StartsWith("d.toml:7: train.lr: unknown key"), StartsWith("command line: run.seeds")));
}

TEST(ReaderFaults, AKeyThatIsNotKnownTakesPartInNoFurtherCheck) {
  // expert.count is not 8: nobody knows what it is, so top_k = 12 may be right.
  EXPECT_THAT(faults("[expert]\ncuont = 16\n[post_train]\ntop_k = 12\n"),
              ElementsAre(StartsWith("d.toml:2: ")));
  EXPECT_THAT(faults("[expert]\ncount = \"16\"\n[post_train]\ntop_k = 12\n"),
              ElementsAre(StartsWith("d.toml:2: ")));
  EXPECT_THAT(faults("[experts]\ncount = 16\n[post_train]\ntop_k = 12\n"),
              ElementsAre(StartsWith("d.toml:1: ")));
  EXPECT_THAT(faults("[expert\ncount = 16\n", {"post_train.top_k=12"}),
              ElementsAre(StartsWith("d.toml:1: ")));
}

TEST(ReaderFaults, DamagedTextNeverDoesWorseThanAFault) {
  std::string const text =
      "# x\n[run]\nseed = 3\ntime_limit = \"01:00:00\"\n[train]\nclip = 1.5e-1\n[data]\npacking = true\n"
      "source = [{path = 'a', weight = 2},\n{path = \"b\\u00e9\"}]\n[lora]\nmix = \"ffn\"\n";
  ASSERT_THAT(faults(text), IsEmpty());
  int broken = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    for (std::string const& damaged :
         {text.substr(0, i), text.substr(0, i) + text.substr(i + 1),
          text.substr(0, i) + "[" + text.substr(i + 1), text.substr(0, i) + "\n" + text.substr(i),
          text.substr(0, i) + "\x01" + text.substr(i)}) {
      auto const lines = faults(damaged);  // anything but an Error would end the test
      broken += !lines.empty();
      for (auto const& line : lines) EXPECT_THAT(line, StartsWith("d.toml:")) << damaged;
    }
  EXPECT_GT(broken, 300);
}

TEST(ReaderFaults, Files) {
  auto const message = [](std::string const& path) {
    try {
      read_deck(path, {});
    } catch (Error const& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message("no/such/deck.toml"), "no/such/deck.toml: cannot be read (No such file or directory)");
  EXPECT_THAT(message("."), StartsWith(".: found a folder"));
}

TEST(Reader, EveryDeckOfTheProjectIsRight) {
  int decks = 0;
  for (auto const& entry : std::filesystem::directory_iterator(UPIT_SOURCE_DIR "/inputs")) {
    if (entry.path().extension() != ".toml") continue;
    ++decks;
    EXPECT_NO_THROW({
      Deck const deck = read_deck(entry.path().string(), {});
      EXPECT_EQ(deck.run.directory, "runs/" + entry.path().stem().string());
    }) << entry.path();
  }
  EXPECT_GE(decks, 3);
}

TEST(Reader, TheFlagshipReadsNothingFromOutside) {
  Deck const deck = read_deck(UPIT_SOURCE_DIR "/inputs/lora8e.toml", {});
  EXPECT_EQ(deck.model.base, "");
  EXPECT_EQ(deck.data.tokenizer, "bytes");
  EXPECT_THAT(deck.data.source, IsEmpty());
  EXPECT_GE(deck.data.samples, 6000);
  EXPECT_EQ(deck.prepare.checkpoints, 4);
  EXPECT_EQ(deck.expert.count, 8);
}

TEST(Reader, RealInputIsMixedOneOneThree) {
  Deck const deck = read_deck(UPIT_SOURCE_DIR "/inputs/stories260k-lora8e.toml", {"data.samples=33000"});
  ASSERT_EQ(deck.data.source.size(), 3u);
  EXPECT_EQ(deck.data.source[0].weight, deck.data.source[1].weight);
  EXPECT_EQ(deck.data.source[2].weight, 3 * deck.data.source[0].weight);
  EXPECT_EQ(deck.data.samples, 33000);
  std::filesystem::path const shared = std::filesystem::path(UPIT_SHARED_DATA).lexically_normal();
  EXPECT_EQ(deck.model.base, (shared / "models/stories260K").string());
}

TEST(Reader, OnRanks) {
  auto const world = Communicator::world();
  std::string const path = UPIT_SOURCE_DIR "/inputs/lora16e.toml";
  EXPECT_EQ(read_deck(path, {"run.seed=3"}, world), read_deck(path, {"run.seed=3"}));
  try {
    read_deck(path, {"expert.count=2"}, world);
    FAIL() << "an impossible deck was read";
  } catch (AgreedError const& error) {
    EXPECT_THAT(error.what(), HasSubstr("command line: expert.count: found 2"));
  }
  EXPECT_THROW(read_deck("no/such/deck.toml", {}, world), AgreedError);
}

}  // namespace
}  // namespace upit::test
