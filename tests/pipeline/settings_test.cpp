// SPDX-License-Identifier: Apache-2.0
// Owns the tests of what a run directory accepts: other settings, --redo, folders of others, tokenizers that
// lie elsewhere. What is refused is named, and nothing is removed or trained before.
#include "small_llama.hpp"

namespace upit::test {
namespace {

std::vector<std::string> redo(std::vector<std::string> arguments, std::string const& stage) {
  arguments.insert(arguments.end(), {"--redo", stage});
  return arguments;
}

class Settings : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Settings, ::testing::Values(1, 2),
                         [](auto const& info) { return "On" + std::to_string(info.param); });

TEST_P(Settings, ChangesAreNamedByTheirKeyAndARefusedRedoRemovesNothing) {
  Workplace const place;
  place.complete(GetParam(), "run");
  std::string const run = place.path("run");
  auto const names = files_of(run);
  std::string const metrics = read_all_text(run + "/metrics.csv");
  expect_one_error(
      place.launch(GetParam(), redo(place.deck("run", {"train.learning_rate=2e-3"}), "post_train")),
      {"stage prepare", "train.learning_rate: was 0.001, is 0.002", "--redo prepare"});
  EXPECT_EQ(files_of(run), names);
  EXPECT_EQ(read_all_text(run + "/metrics.csv"), metrics);

  expect_one_error(place.launch(GetParam(), place.deck("run", {"prepare.select=uniform"})),
                   {"stage expand", "prepare.select: was \"back_half\", is \"uniform\"", "--redo expand"});
  expect_one_error(place.launch(GetParam(), place.deck("run", {"route.data=none"})),
                   {"stage upcycle", "route.data: was \"skilled\", is \"none\"", "--redo upcycle"});
  // How experts mix is nothing to single ones.
  expect_one_error(place.launch(GetParam(), place.deck("run", {"lora.mix=ffn"})),
                   {"stage upcycle", "lora.mix: was \"branch\", is \"ffn\"", "--redo upcycle"});
  expect_one_error(place.launch(GetParam(), place.deck("run", {"run.seed=8"})),
                   {"stage pretrain", "run.seed: was 7, is 8"});
  EXPECT_EQ(files_of(run), names);
  Outcome const again = place.launch(GetParam(), place.deck("run"));
  EXPECT_EQ(again.code, 0) << again.all();
  EXPECT_THAT(again.out, HasSubstr("everything is complete"));

  Outcome const redone = place.launch(GetParam(), redo(place.deck("run"), "post_train"));
  EXPECT_EQ(redone.code, 0) << redone.all();
  EXPECT_THAT(redone.out, HasSubstr("removed: post_train, evaluate; to go on after an interruption, give the "
                                    "command without --redo"));
  EXPECT_EQ(files_of(run), names);
}

TEST_P(Settings, FoldersOfOthersAreLeftAlone) {
  Workplace const place;
  place.write("run/route/notes.txt", "mine");
  for (auto const& arguments : {place.deck("run"), redo(place.deck("run"), "pretrain")}) {
    expect_one_error(place.launch(GetParam(), arguments),
                     {"run/route holds notes.txt", "move the folder away", "run.directory"});
  }
  EXPECT_EQ(files_of(place.path("run")), (std::vector<std::string>{"metrics.csv", "route/notes.txt"}));

  place.write("run-rehearsal/prepare/notes.txt", "mine");
  auto arguments = place.deck("run");
  arguments.insert(arguments.begin(), "rehearse");
  expect_one_error(place.launch(GetParam(), arguments), {"run-rehearsal/prepare holds notes.txt"});
  EXPECT_EQ(read_all_text(place.path("run-rehearsal/prepare/notes.txt")), "mine");

  // A deck in the folder that it names as run.directory.
  std::string const mine = read_all_text(place.write("other/deck.toml", kTinyDeck));
  expect_one_error(
      place.launch(GetParam(), {place.path("other/deck.toml"), "run.directory=" + place.path("other")}),
      {"other/deck.toml was not written by a run"});
  EXPECT_EQ(read_all_text(place.path("other/deck.toml")), mine);
}

TEST_P(Settings, WhatMustFailLaterFailsAtTheStart) {
  Workplace const place;
  expect_one_error(place.launch(GetParam(), place.deck("run", {"prepare.epochs=0.1"})),
                   {"checkpoints", "stage 1 has only 2 steps"});
  EXPECT_EQ(files_of(place.path("run")), std::vector<std::string>{"metrics.csv"});
  Outcome const outcome = place.launch(GetParam(), place.deck("run", {"run.time_limit=5"}));
  EXPECT_EQ(outcome.code, 75) << outcome.all();
  auto const warning =
      outcome.out.find("warning: stage route trains an expert and its routing vectors for 6 steps");
  ASSERT_NE(warning, std::string::npos) << outcome.out;
  EXPECT_LT(warning, outcome.out.find("pretrain  1/"));
}

TEST_P(Settings, ATokenizerIsKnownByItsContent) {
  Workplace const place;
  write_tokenizer(place, "words", "tea");
  write_tokenizer(place, "others", "iron");
  std::string const words = place.path("words/tokenizer.model"),
                    others = place.path("others/tokenizer.model");
  place.complete(GetParam(), "made", {"data.tokenizer=" + words});
  std::string const base = place.path("made/pretrain/base.h5"),
                    model = place.path("made/post_train/model.h5");
  place.write("tea.jsonl", sample_lines(9, "tea"));
  auto const check = [&](std::string const& tokenizer) {
    auto arguments = place.deck("run", {"model.base=" + base, "data.tokenizer=" + tokenizer});
    arguments.insert(arguments.begin(), "check");
    return place.launch(GetParam(), arguments);
  };
  auto const eval = [&](std::string const& tokenizer) {
    return place.launch(GetParam(),
                        {"eval", model, "--data", place.path("tea.jsonl"), "--tokenizer", tokenizer});
  };
  fs::create_directories(place.path("moved"));
  std::string const moved = place.path("moved/tokenizer.model");
  fs::rename(words, moved);
  for (auto const& launch : std::vector<std::function<Outcome(std::string const&)>>{check, eval}) {
    Outcome const accepted = launch(moved);
    EXPECT_EQ(accepted.code, 0) << accepted.all();
    expect_one_error(launch(others), {"tokenizer is \"" + others, words, "another content"});
    expect_one_error(launch("bytes"), {"tokenizer is \"bytes\"", words});
  }
  fs::copy_file(others, words);
  expect_one_error(check(words), {"another file in that place"});
  expect_one_error(place.launch(GetParam(), {"eval", model, "--data", place.path("tea.jsonl")}),
                   {"another file in that place"});
  // Of a Hugging Face model no more than its vocabulary is known.
  write_llama(place, "llama", {});
  expect_one_error(place.launch(GetParam(), {"eval", place.path("llama"), "--data", place.path("tea.jsonl"),
                                             "--tokenizer", "bytes"}),
                   {"--tokenizer is \"bytes\", of 258 pieces", "320"});
}

}  // namespace
}  // namespace upit::test
