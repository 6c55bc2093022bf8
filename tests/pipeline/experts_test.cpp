// SPDX-License-Identifier: Apache-2.0
// Owns the tests of whole runs with FFN experts: alone and spread over ranks, killed and resumed, one rank
// lost, and the decks that are refused.
#include <cmath>
#include <nlohmann/json.hpp>

#include "support.hpp"

namespace upit::test {
namespace {

struct Spread {
  int ranks, group;
};

std::vector<std::string> ffn(Spread s, std::vector<std::string> const& more = {}) {
  std::vector<std::string> changes = {"expert.kind=ffn", "train.learning_rate=5e-4",
                                      "parallel.expert=" + std::to_string(s.group)};
  changes.insert(changes.end(), more.begin(), more.end());
  return changes;
}

class FfnExperts : public ::testing::TestWithParam<Spread> {};
INSTANTIATE_TEST_SUITE_P(Ranks, FfnExperts, ::testing::Values(Spread{1, 1}, Spread{2, 1}, Spread{2, 2}),
                         [](auto const& info) {
                           return "On" + std::to_string(info.param.ranks) + "InGroupsOf" +
                                  std::to_string(info.param.group);
                         });

nlohmann::json report_of(std::string const& run) {
  return nlohmann::json::parse(read_all_text(run + "/evaluate/report.json"));
}

// Killed in the stages that move FFN experts; the others are the same code as with LoRA experts.
TEST_P(FfnExperts, KilledAndResumedEqualsTheStraightRun) {
  Workplace const place;
  // Rows between states: what a row tells must not depend on where a launch began.
  auto const changes = ffn(GetParam(), {"run.log_every=4"});
  place.complete(GetParam().ranks, "straight", changes);
  std::string const run = place.path("run");
  for (char const* stage : {"prepare", "expand", "route", "upcycle", "post_train"}) {
    auto const job = place.start(GetParam().ranks, place.deck("run", changes));
    ASSERT_TRUE(wait_until([&] { return fs::exists(run + "/" + stage + "/stage.txt") || !job->running(); },
                           kPatience, 0.2));
    nap(10.0);
    job->kill_all();
  }
  place.complete(GetParam().ranks, "run", changes);
  expect_no_row_twice(run);
  expect_same_run(place.path("straight"), run);
}

TEST(FfnExpertGroups, ReachTheSameLosses) {
  Workplace const place;
  std::vector<std::vector<double>> losses;
  // 3 experts: alone; on groups of 2, unequal; on a group of 4, one rank idle; in small buffers, so in
  // rounds.
  std::vector<std::pair<Spread, std::vector<std::string>>> const ways = {
      {{1, 1}, {}}, {{4, 2}, {}}, {{4, 4}, {}}, {{2, 2}, {"parallel.capacity=0.4", "parallel.chunks=2"}}};
  for (auto const& [spread, more] : ways) {
    std::string const name = "run" + std::to_string(losses.size());
    place.complete(spread.ranks, name, ffn(spread, more));
    losses.emplace_back();
    auto const report = report_of(place.path(name));
    for (auto const& model : report.at("losses")) {
      losses.back().push_back(model.at("loss").get<double>());
    }
  }
  ASSERT_EQ(losses[0].size(), 4U);
  for (auto const& other : losses) {
    ASSERT_EQ(other.size(), losses[0].size());
    // A run takes some 40 steps in fp32; once a rounding turns a discrete choice, losses differ by what a few
    // tokens weigh. The spread over seeds of this deck is ten times as large.
    for (std::size_t i = 0; i < other.size(); ++i) EXPECT_NEAR(other[i], losses[0][i], 5e-3) << i;
  }
}

TEST(FfnExpertGroups, OneRankLostEndsTheJobAndTheRunGoesOn) {
  Workplace const place;
  auto const changes = ffn({2, 2});
  place.complete(2, "straight", changes);
  std::string const run = place.path("run");
  auto const job = place.start(2, place.deck("run", changes));
  // After a state, in the stage where ranks wait for each other's tokens.
  ASSERT_TRUE(
      wait_until([&] { return !state_steps(run, "post_train").empty() || !job->running(); }, kPatience, 0.2));
  auto const ranks = ranks_of(*job);
  ASSERT_FALSE(ranks.empty());
  ::kill(ranks.back(), SIGKILL);
  Outcome const outcome = job->wait(20.0);
  EXPECT_FALSE(outcome.timed_out) << "the other rank waits for ever\n" << outcome.all();
  EXPECT_NE(outcome.code, 0);
  EXPECT_NE(outcome.code, 75);
  expect_no_backtrace(outcome);
  EXPECT_TRUE(is_begun(run, "post_train"));
  place.complete(2, "run", changes);
  expect_no_row_twice(run);
  expect_same_run(place.path("straight"), run);
}

TEST(FfnExpertGroups, RefuseWhatDoesNotFit) {
  Workplace const place;
  expect_one_error(place.launch(2, place.deck("run", {"parallel.expert=2"})),
                   {"parallel.expert", "LoRA experts are small and stay whole on every rank"});
  expect_one_error(place.launch(2, place.deck("run", ffn({2, 3}))), {"parallel.expert", "3", "2 ranks"});
  expect_one_error(place.launch(1, place.deck("run", ffn({1, 1}, {"expert.kind=fnn"}))),
                   {"expert.kind", "fnn", "lora", "ffn"});
  EXPECT_FALSE(fs::exists(place.path("run/pretrain")));
}

TEST(FfnExpertGroups, ARunGoesOnInOtherGroups) {
  Workplace const place;
  std::string const run = place.path("run");
  auto const job = place.start(2, place.deck("run", ffn({2, 2})));
  ASSERT_TRUE(
      wait_until([&] { return !state_steps(run, "post_train").empty() || !job->running(); }, kPatience, 0.2));
  job->kill_all();
  ASSERT_TRUE(is_begun(run, "post_train"));
  Outcome const rest = place.launch(1, place.deck("run", ffn({1, 1})));
  EXPECT_EQ(rest.code, 0) << rest.all();
  EXPECT_THAT(rest.out, HasSubstr("going on after step"));
}

TEST(FfnExpertGroups, BenchCountsWhatTravels) {
  Workplace const place;
  std::vector<std::string> const shapes = {"bench", "--width",    "16", "--layers", "2",       "--kv-heads",
                                           "2",     "--heads",    "2",  "--ffn",    "24",      "--vocabulary",
                                           "50",    "--sequence", "12", "--cases",  "ffn_moe", "--experts",
                                           "4",     "--repeat",   "1",  "--group"};
  auto good = shapes, bad = shapes;
  good.insert(good.end(), {"2", "--json", place.path("bench.json")});
  bad.push_back("3");
  Outcome const outcome = place.launch(2, good);
  ASSERT_EQ(outcome.code, 0) << outcome.all();
  EXPECT_THAT(outcome.out, HasSubstr("a step from rank to rank"));
  auto const bench = nlohmann::json::parse(read_all_text(place.path("bench.json")));
  EXPECT_GT(bench.at("cases").at(0).at("exchange_bytes").get<double>(), 0.0);
  expect_one_error(place.launch(2, bad), {"--group", "3", "2 ranks"});
}

TEST(FfnExpertGroups, SpreadModelIsOneFile) {
  Workplace const place;
  Outcome const made = place.launch(2, place.deck("run", ffn({2, 2})));
  ASSERT_EQ(made.code, 0) << made.all();
  for (char const* part : {"token exchange:", "largest/mean load", "router entropy", "dead experts"}) {
    EXPECT_THAT(made.out, HasSubstr(part));
  }
  std::set<std::string> layers;
  for (auto const& row : metrics_of(place.path("run"))) {
    if (row.at("stage").starts_with("post_train.layer_")) layers.insert(row.at("stage"));
    if (row.at("stage") != "post_train") continue;
    EXPECT_GE(std::stod(row.at("rank_imbalance")), 1.0);
    EXPECT_GT(std::stod(row.at("exchange_bytes")), 0.0);
  }
  EXPECT_EQ(layers, (std::set<std::string>{"post_train.layer_00", "post_train.layer_01"}));
  // What is done again is only the evaluation: rows of the stage before it stay.
  auto const before = story_of(place.path("run"));
  Outcome const again = place.launch(2, [&] {
    auto arguments = place.deck("run", ffn({2, 2}));
    arguments.insert(arguments.end(), {"--redo", "evaluate"});
    return arguments;
  }());
  EXPECT_EQ(again.code, 0) << again.all();
  EXPECT_EQ(story_of(place.path("run")), before);
  Outcome const told = place.launch(1, {"inspect", place.path("run/post_train/model.h5")});
  EXPECT_EQ(told.code, 0) << told.all();
  EXPECT_THAT(told.out, HasSubstr("layers.0.experts.gate_up"));
  // Evaluated by one rank that holds all, and by two.
  std::string const line = R"({"tokens":[1,72,101,108,108,111,32,119,111,114,108,100]})";
  place.write("ids.jsonl", line + "\n");
  std::vector<double> means;
  for (int const ranks : {1, 2}) {
    std::string const out = place.path("nll" + std::to_string(ranks) + ".json");
    Outcome const outcome = place.launch(ranks, {"eval", place.path("run/post_train/model.h5"), "--tokens",
                                                 place.path("ids.jsonl"), "--json", out});
    ASSERT_EQ(outcome.code, 0) << outcome.all();
    means.push_back(nlohmann::json::parse(read_all_text(out)).at(0).at("mean").get<double>());
  }
  EXPECT_TRUE(std::isfinite(means[0]));
  EXPECT_EQ(means[0], means[1]);  // one line, so one rank computes it either way
}

}  // namespace
}  // namespace upit::test
