// SPDX-License-Identifier: Apache-2.0
// Owns the tests of checks across keys, warnings.
#include "upit/config/check.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support.hpp"

namespace upit::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

TEST(Check, TopKAgainstCount) {
  EXPECT_THAT(faults("[post_train]\ntop_k = 9\n"),
              ElementsAre("d.toml:2: post_train.top_k: found 9, allowed: at most expert.count = 8"));
  EXPECT_THAT(faults("[post_train]\ntop_k = 8\n"), IsEmpty());
  // Where the key itself stands at its default, the line is that of its partner.
  EXPECT_THAT(faults("[expert]\ncount = 1\n[prepare]\ncheckpoints = 1\n"),
              ElementsAre("d.toml:2: post_train.top_k: found 2, allowed: at most expert.count = 1"));
  EXPECT_THAT(faults("", {"post_train.top_k=9"}),
              ElementsAre("command line: post_train.top_k: found 9, allowed: at most expert.count = 8"));
}

TEST(Check, ModelShapes) {
  EXPECT_THAT(faults("[model]\nwidth = 130\n"),
              ElementsAre("d.toml:2: model.width: found 130, allowed: a multiple of model.heads = 4"));
  EXPECT_THAT(faults("[model]\nkv_heads = 3\n"),
              ElementsAre("d.toml:2: model.heads: found 4, allowed: a multiple of model.kv_heads = 3"));
  EXPECT_THAT(faults("[model]\nwidth = 12\n"),
              ElementsAre(HasSubstr("makes heads of width 3; allowed: an even head width")));
  EXPECT_THAT(faults("[lora]\nrank = 129\n"),
              ElementsAre(HasSubstr("lora.rank: found 129, allowed: at most")));
  // With a base the shapes are the base's own.
  EXPECT_THAT(faults("[model]\nbase = \"m\"\nwidth = 130\n[lora]\nrank = 129\n"), IsEmpty());
}

TEST(Check, ExpansionNeedsAPair) {
  EXPECT_THAT(
      faults("[prepare]\ncheckpoints = 1\n"),
      ElementsAre(AllOf(StartsWith("d.toml:2: prepare.checkpoints: found m = 1"), HasSubstr("m < 2"))));
  EXPECT_THAT(faults("[prepare]\ncheckpoints = 2\n"), IsEmpty());
  // The base is no parent.
  EXPECT_THAT(faults("[prepare]\ncheckpoints = 2\ninclude_base = true\n"),
              ElementsAre(AllOf(StartsWith("d.toml:2: prepare.checkpoints"), HasSubstr("m < 2"))));
  EXPECT_THAT(faults("[prepare]\ncheckpoints = 3\ninclude_base = true\n"), IsEmpty());
  EXPECT_THAT(faults("[prepare]\ncheckpoints = 1\n[expert]\ncount = 1\n[post_train]\ntop_k = 1\n"),
              IsEmpty());
}

TEST(Check, CountsOfExpertsAndCheckpoints) {
  EXPECT_THAT(faults("[prepare]\ncheckpoints = 9\n"),
              ElementsAre("d.toml:2: expert.count: found 8, allowed: at least prepare.checkpoints = 9"));
  EXPECT_THAT(faults("[expand]\nstrategy = \"none\"\n"),
              ElementsAre("d.toml:2: expert.count: found 8, allowed: prepare.checkpoints = 4, since "
                          "expand.strategy is \"none\""));
  EXPECT_THAT(faults("[expand]\nstrategy = \"none\"\n[prepare]\ncheckpoints = 8\n"), IsEmpty());
}

TEST(Check, OtherFaults) {
  EXPECT_THAT(
      faults("[parallel]\nexpert = 2\n"),
      ElementsAre("d.toml:2: parallel.expert: found 2, allowed: 1, since LoRA experts are small and stay "
                  "whole on every rank"));
  EXPECT_THAT(faults("[data]\nsamples = 10\n"),
              ElementsAre(StartsWith("d.toml:2: data.held_out: found 0.05")));
  EXPECT_THAT(faults("[data]\nsamples = 20\n"), IsEmpty());
  EXPECT_THAT(faults("[data]\ntokenizer = \"\"\n"),
              ElementsAre(StartsWith("d.toml:2: data.tokenizer: found \"\"")));
  EXPECT_THAT(faults("[run]\ndirectory = \"\"\ntime_limit = \"1:2\"\n"),
              ElementsAre(StartsWith("d.toml:2: run.directory: found \"\""),
                          StartsWith("d.toml:3: run.time_limit: found \"1:2\"")));
}

TEST(Check, Warnings) {
  Deck deck;
  EXPECT_THAT(deck_warnings(deck), IsEmpty());
  deck.post_train.top_k = 1;
  EXPECT_THAT(deck_warnings(deck), ElementsAre(HasSubstr("gives the router no gradient")));
  deck.upcycle.router_order = "softmax_topk";
  EXPECT_THAT(deck_warnings(deck), IsEmpty());
  deck.model.base = "/m";
  EXPECT_THAT(deck_warnings(deck), IsEmpty());
  deck.model.layers = 5;
  deck.pretrain.epochs = 3;
  EXPECT_THAT(deck_warnings(deck), ElementsAre(HasSubstr("model.layers, pretrain.epochs")));
}

TEST(Check, WarnsOfTablesThatTheKindOfExpertDoesNotKnow) {
  Deck deck;
  deck.parallel.capacity = 1.5;
  EXPECT_THAT(deck_warnings(deck), ElementsAre(HasSubstr("[parallel] has no meaning")));
  deck.expert.kind = "ffn";
  EXPECT_THAT(deck_warnings(deck), IsEmpty());
  deck.lora.rank = 4;
  EXPECT_THAT(deck_warnings(deck), ElementsAre(HasSubstr("[lora] has no meaning")));
}

// What the check accepts the run takes, and the reverse: upit::TimeLimit has the tests of single texts.
TEST(Check, TimeLimitsAreThoseOfTheRun) {
  for (char const* good : {"90", "0.5", "00:05:07", "100:00:00"})
    EXPECT_THAT(faults(fmt::format("[run]\ntime_limit = \"{}\"\n", good)), IsEmpty()) << good;
  for (char const* wrong : {"0", "-1", "5m", "1:2", "00:60:00", "00:00:00", "inf"})
    EXPECT_THAT(faults(fmt::format("[run]\ntime_limit = \"{}\"\n", wrong)),
                ElementsAre(HasSubstr("run.time_limit")))
        << wrong;
}

}  // namespace
}  // namespace upit::test
