// SPDX-License-Identifier: Apache-2.0
// Owns the tests of what is not a run from nothing: a run on a given base and files, check, deck, inspect,
// eval, bench, and the decks that come with the program.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "small_llama.hpp"
#include "upit/config/reader.hpp"
#include "upit/core/types.hpp"
#include "upit/core/version.hpp"

namespace upit::test {
namespace {

using nlohmann::json;

/// Columns of the row of a printed table whose first column is `first`.
std::vector<std::string> row_of(std::string const& text, std::string const& first) {
  for (auto const& line : lines_of(text)) {
    std::istringstream in(line);
    std::vector<std::string> cells;
    for (std::string cell; in >> cell;) cells.push_back(cell);
    if (!cells.empty() && cells[0] == first) return cells;
  }
  return {};
}

class Commands : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Commands, ::testing::Values(1, 2),
                         [](auto const& info) { return "On" + std::to_string(info.param); });

TEST(Decks, EveryOneChecks) {
  Workplace const place;
  int checked = 0;
  for (auto const& entry : fs::directory_iterator(UPIT_SOURCE_DIR "/inputs")) {
    if (entry.path().extension() != ".toml") continue;
    std::string const deck = entry.path().string();
    if (read_all_text(deck).find("../shared/") != std::string::npos && !fs::exists(UPIT_SHARED_DATA)) {
      GTEST_LOG_(INFO) << deck << " left out: its data are not here";
      continue;
    }
    Outcome const outcome = place.launch(1, {"check", deck, "run.directory=" + place.path("run")});
    EXPECT_EQ(outcome.code, 0) << outcome.all();
    EXPECT_THAT(error_lines(outcome), ::testing::IsEmpty());
    EXPECT_THAT(outcome.out, HasSubstr("parameters"));
    EXPECT_FALSE(fs::exists(place.path("run"))) << "a check writes nothing";
    ++checked;
  }
  EXPECT_GE(checked, 2);
}

TEST(Decks, AllKeysReadBack) {
  Workplace const place;
  Outcome const outcome = place.launch(1, {"deck", "--all"});
  ASSERT_EQ(outcome.code, 0) << outcome.all();
  EXPECT_TRUE(parse_deck(outcome.out, "printed.toml", {}) == Deck{}) << outcome.out;
  Outcome const tiny = place.launch(1, {"deck", place.path("deck.toml"), "--all", "post_train.top_k=3"});
  ASSERT_EQ(tiny.code, 0) << tiny.all();
  Deck const wanted = parse_deck(kTinyDeck, place.path("deck.toml"), {"post_train.top_k=3"});
  EXPECT_TRUE(parse_deck(tiny.out, place.path("deck.toml"), {}) == wanted) << tiny.out;
}

TEST_P(Commands, CheckPrintsAPlanAndFindsWhatTheRunWould) {
  Workplace const place;
  auto arguments = place.deck("run");
  arguments.insert(arguments.begin(), "check");
  Outcome const good = place.launch(GetParam(), arguments);
  EXPECT_EQ(good.code, 0) << good.all();
  for (char const* word : {"parameters", "steps", "memory", "disk"}) EXPECT_THAT(good.out, HasSubstr(word));
  EXPECT_FALSE(fs::exists(place.path("run")));
  arguments.push_back("model.base=nowhere");
  expect_one_error(place.launch(GetParam(), arguments), {"model.base", "nowhere"});
}

// A base in Hugging Face form, weighted JSON lines, packed sequences, mixed whole FFNs, softmax before top-k.
TEST_P(Commands, ARunOnAGivenBaseAndFiles) {
  Workplace const place;
  write_llama(place, "llama", {});
  place.write("tea.jsonl", sample_lines(60, "tea"));
  place.write("milk.jsonl", sample_lines(60, "milk"));
  std::vector<std::string> const given = {"model.base=" + place.path("llama"),
                                          "data.tokenizer=" + place.path("llama/tokenizer.model"),
                                          "data.source=[{path=\"" + place.path("tea.jsonl") +
                                              "\"}, {path=\"" + place.path("milk.jsonl") +
                                              "\", domain=\"white\", weight=2.0}]",
                                          "data.samples=84",
                                          "data.packing=true",
                                          "prepare.epochs=2",
                                          "lora.mix=ffn",
                                          "upcycle.router_order=softmax_topk"};
  Outcome const outcome = place.launch(GetParam(), place.deck("run", given));
  ASSERT_EQ(outcome.code, 0) << outcome.all();
  std::string const run = place.path("run");
  EXPECT_FALSE(fs::exists(run + "/pretrain"));
  json const report = json::parse(read_all_text(run + "/evaluate/report.json"));
  auto const& last = report.at("losses").back();
  EXPECT_EQ(last.at("model"), "MoE");
  EXPECT_TRUE(last.at("domains").contains("tea"));
  EXPECT_TRUE(last.at("domains").contains("white"));
  EXPECT_LT(last.at("loss").get<double>(), report.at("losses").front().at("loss").get<double>());

  // The files are part of what a stage was run with.
  place.write("tea.jsonl", sample_lines(60, "coffee"));
  expect_one_error(place.launch(GetParam(), place.deck("run", given)),
                   {"prepare", "training_set", "--redo prepare"});
  place.write("tea.jsonl", sample_lines(60, "tea"));
  // The values are the same, what they mean is not.
  std::string const config = read_all_text(place.path("llama/config.json"));
  std::string changed = config;
  changed.replace(changed.find("10000.0"), 7, "20000.0");
  place.write("llama/config.json", changed);
  expect_one_error(place.launch(GetParam(), place.deck("run", given)),
                   {"prepare", "base.rope_theta: was 10000, is 20000", "--redo prepare"});
  place.write("llama/config.json", config);
  SmallLlama other;
  other.change = [](std::string const& name, auto&, std::vector<float>& values) {
    if (name == "model.norm.weight") values[0] = 0.5F;
    return true;
  };
  write_llama(place, "llama", other);
  expect_one_error(place.launch(GetParam(), place.deck("run", given)), {"prepare", "base", "--redo prepare"});
}

TEST_P(Commands, InspectAndEvalReadWhatARunLeaves) {
  Workplace const place;
  place.complete(GetParam(), "run");
  std::string const model = place.path("run/post_train/model.h5"), base = place.path("run/pretrain/base.h5");

  Outcome const inspected = place.launch(GetParam(), {"inspect", model, base});
  EXPECT_EQ(inspected.code, 0) << inspected.all();
  for (char const* word : {"kind: moe", "kind: dense", "backbone/embedding", "(258, 32)", "elements"}) {
    EXPECT_THAT(inspected.out, HasSubstr(word));
  }

  place.write("tea.jsonl", sample_lines(12, "tea"));
  place.write("milk.jsonl", sample_lines(9, "milk"));
  Outcome const data = place.launch(GetParam(), {"eval", model, "--data", place.path("tea.jsonl"),
                                                 place.path("milk.jsonl"), "--json", "data.json"});
  ASSERT_EQ(data.code, 0) << data.all();
  json const files = json::parse(read_all_text(place.path("data.json")));
  ASSERT_EQ(files.size(), 2U);
  for (auto const& file : files) {
    double const loss = file.at("loss");
    EXPECT_GT(loss, 0.0);
    EXPECT_NEAR(file.at("perplexity").get<double>() / std::exp(loss), 1.0, 1e-9);
  }
  EXPECT_EQ(files[1].at("samples"), 9);
  auto const row = row_of(data.out, place.path("tea.jsonl"));
  ASSERT_GE(row.size(), 4U) << data.out;
  EXPECT_EQ(row[1], "12");
  EXPECT_NEAR(std::stod(row[3]), files[0].at("loss").get<double>(), 1e-5);

  place.write("ids.jsonl",
              "{\"tokens\": [0, 5, 6, 7, 8, 1]}\n{\"tokens\": [9, 10]}\n{\"tokens\": [0, 5, 6, 7]}\n");
  Outcome const tokens =
      place.launch(GetParam(), {"eval", model, "--tokens", place.path("ids.jsonl"), "--json", "nll.json"});
  ASSERT_EQ(tokens.code, 0) << tokens.all();
  json const lines = json::parse(read_all_text(place.path("nll.json")));
  ASSERT_EQ(lines.size(), 3U);
  std::vector<std::size_t> const predicted = {5, 1, 3};
  for (std::size_t i = 0; i < 3; ++i) {
    auto const nll = lines[i].at("nll").get<std::vector<double>>();
    ASSERT_EQ(nll.size(), predicted[i]);
    double sum = 0.0;
    for (double const one : nll) sum += one;
    EXPECT_NEAR(lines[i].at("mean").get<double>() * static_cast<double>(nll.size()) / sum, 1.0, 1e-6);
  }
  // What follows a token does not change its loss: line 3 is the beginning of line 1. Only the order of sums
  // may: they have 32, 16, 32, 32 and 48 elements in each of 2 layers, and 32 in the head, 352 in all. A
  // rounding moves a loss by at most eps / 2 of its size, this way or that, so n of them by sqrt(n) of that;
  // six of these for either.
  for (std::size_t t = 0; t < 3; ++t) {
    double const one = lines[0].at("nll")[t], other = lines[2].at("nll")[t];
    double const spread = std::sqrt(2.0 * 352.0) * 0.5 * std::numeric_limits<float>::epsilon();
    EXPECT_NEAR(one, other, 6.0 * spread * std::max(one, 1.0));
  }

  place.write("bad.jsonl", "{\"tokens\": [0, 5]}\n{\"tokens\": [0, 258]}\n");
  expect_one_error(place.launch(GetParam(), {"eval", model, "--tokens", place.path("bad.jsonl")}),
                   {"bad.jsonl:2", "258", "257"});
  std::string long_line = "{\"tokens\": [0";
  for (int t = 0; t < 129; ++t) long_line += ", 5";
  place.write("bad.jsonl", "{\"tokens\": [0, 5]}\n" + long_line + "]}\n");
  expect_one_error(place.launch(GetParam(), {"eval", model, "--tokens", place.path("bad.jsonl")}),
                   {"bad.jsonl:2", "130 tokens", "at most 129"});
  fs::resize_file(base, fs::file_size(base) / 2);
  expect_one_error(place.launch(GetParam(), {"eval", base, "--data", place.path("tea.jsonl")}), {"base.h5"});
  expect_one_error(place.launch(GetParam(), {"inspect", base}), {"base.h5"});
}

TEST_P(Commands, BenchWritesWhatItMeasured) {
  Workplace const place;
  Outcome const outcome =
      place.launch(GetParam(), {"bench", "--width",    "32",         "--layers",    "1",  "--heads",
                                "2",     "--kv-heads", "1",          "--ffn",       "48", "--vocabulary",
                                "64",    "--sequence", "16",         "--sequences", "2",  "--experts",
                                "3",     "--top-k",    "2",          "--rank",      "2",  "--repeat",
                                "2",     "--json",     "bench.json", "--profile"});
  ASSERT_EQ(outcome.code, 0) << outcome.all();
  json const report = json::parse(read_all_text(place.path("bench.json")));
  for (char const* word : {"dense", "lora_moe", "tokens"}) EXPECT_THAT(report.dump(), HasSubstr(word));
  for (auto const& one : report.at("cases")) {
    json const& profile = one.at("profile");
    EXPECT_EQ(profile.at("steps"), 2);
    double sum = profile.at("host_seconds").get<double>();
    std::set<std::string> kinds;
    for (auto const& row : profile.at("rows")) {
      sum += row.at("seconds").get<double>();
      kinds.insert(row.at("kind").get<std::string>());
    }
    EXPECT_NEAR(sum, profile.at("seconds").get<double>(), 1e-9);
    EXPECT_THAT(kinds, ::testing::IsSupersetOf({"kernel", "copy", "product"}));
    EXPECT_THAT(profile.at("tree").dump(), HasSubstr("upit::forward"));
  }
  for (char const* word : {"upit::adamw", "upit::backward", "host work outside kernels"}) {
    EXPECT_THAT(outcome.out, HasSubstr(word));
  }
  expect_one_error(place.launch(GetParam(), {"bench", "--width", "33", "--heads", "2"}), {"--width", "33"});
  if (std::is_same_v<Exec, HostExec>) {
    EXPECT_EQ(report.at("tf32"), false);
    expect_one_error(place.launch(GetParam(), {"bench", "--tf32"}), {"--tf32", "NVIDIA"});
  }
}

// A source may be too light for the samples that are asked for.
TEST(Data, ADomainWithoutSamplesIsToldOfAndLeftOut) {
  Workplace const place;
  place.write("tea.jsonl", sample_lines(90, "tea"));
  place.write("milk.jsonl", sample_lines(90, "milk"));
  Outcome const outcome = place.launch(
      1, place.deck("run",
                    {"data.samples=80", "data.source=[{path=\"" + place.path("tea.jsonl") + "\"}, {path=\"" +
                                            place.path("milk.jsonl") + "\", weight=0.001}]"}));
  ASSERT_EQ(outcome.code, 0) << outcome.all();
  EXPECT_THAT(outcome.out, HasSubstr("milk.jsonl gives none of data.samples = 80"));
  EXPECT_THAT(outcome.out, HasSubstr("warning: domain milk has no held-out sample"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("nan")));
  auto const row = row_of(outcome.out, "base");
  ASSERT_EQ(row.size(), 5U) << outcome.out;
  EXPECT_EQ(row[2], "-");
  json const report = json::parse(read_all_text(place.path("run/evaluate/report.json")));
  EXPECT_FALSE(report.at("losses")[0].at("domains").contains("milk"));
  for (auto const& entry : report.at("tokens")) EXPECT_EQ(entry.at("domain"), "tea");
}

// Only a run reads the note that a caught signal leaves.
TEST(Signals, EndWhatIsNoRun) {
  Workplace const place;
  for (int const signal : {SIGTERM, SIGUSR1}) {
    auto const job =
        place.start(1, {"bench", "--width", "32", "--layers", "1", "--heads", "2", "--kv-heads", "1", "--ffn",
                        "48", "--vocabulary", "64", "--sequence", "16", "--repeat", "10000000"});
    ASSERT_TRUE(wait_until([&] { return !job->out().empty() || !job->running(); }, kPatience));
    auto const ranks = ranks_of(*job);
    ASSERT_EQ(ranks.size(), 1U) << job->wait(1.0).all();
    ::kill(ranks[0], signal);
    Outcome const outcome = job->wait(20.0);
    EXPECT_FALSE(outcome.timed_out) << "signal " << signal << " is ignored";
    EXPECT_NE(outcome.code, 0);
  }
}

TEST(Help, VersionNamesReleaseAndCommit) {
  Workplace const place;
  Outcome const outcome = place.launch(1, {"--version"});
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  // Of the library, which writes them into every file: this test is of the same build.
  EXPECT_THAT(outcome.out, ::testing::StartsWith(std::string("upit ") + version() + " (" + git_hash() + ")"));
  EXPECT_TRUE(std::isdigit(static_cast<unsigned char>(version()[0]))) << version();
  if (fs::exists(UPIT_SOURCE_DIR "/.git")) EXPECT_STRNE(git_hash(), "unknown");
}

TEST(Help, IsPrintedOnceAndEndsWell) {
  Workplace const place;
  Outcome const outcome = place.launch(2, {"--help"});
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  auto const first = outcome.out.find("upit rehearse");
  ASSERT_NE(first, std::string::npos) << outcome.all();
  EXPECT_EQ(outcome.out.find("upit rehearse", first + 1), std::string::npos);
}

}  // namespace
}  // namespace upit::test
