// SPDX-License-Identifier: Apache-2.0
// Owns the tests of errors a user meets, at 1 and 2 ranks: one line that names what is wrong, exit code 1, no
// hang, no backtrace, and earlier results are kept.
#include <sys/resource.h>

#include <limits>
#include <type_traits>

#include "small_llama.hpp"
#include "upit/core/types.hpp"

namespace upit::test {
namespace {

/// Something to get wrong: prepares files, says how to launch, and what the line must hold.
struct Mistake {
  std::string name;
  std::function<std::vector<std::string>(Workplace const&)> arguments;
  std::vector<std::string> parts;   // of the line that begins with "upit: error:"
  std::vector<std::string> more{};  // anywhere in the message: several faults take several lines
};
void PrintTo(Mistake const& mistake, std::ostream* out) { *out << mistake.name; }

/// The tiny deck with something put in the place of something else; deck.toml.
std::function<std::vector<std::string>(Workplace const&)> deck_with(std::string const& old,
                                                                    std::string const& now) {
  return [old, now](Workplace const& place) {
    std::string text = kTinyDeck;
    auto const at = text.find(old);
    EXPECT_NE(at, std::string::npos) << old;
    text.replace(at, old.size(), now);
    place.write("deck.toml", text);
    return place.deck("run");
  };
}
/// Overrides on the command line.
std::function<std::vector<std::string>(Workplace const&)> with(std::vector<std::string> const& changes) {
  return [changes](Workplace const& place) { return place.deck("run", changes); };
}
/// A Hugging Face base, changed after it has been written.
std::function<std::vector<std::string>(Workplace const&)> base_with(
    SmallLlama const& llama, std::function<void(std::string const& folder)> const& damage = {},
    std::vector<std::string> const& changes = {}) {
  return [llama, damage, changes](Workplace const& place) {
    write_llama(place, "llama", llama);
    if (damage) damage(place.path("llama"));
    std::vector<std::string> all = {"model.base=" + place.path("llama"),
                                    "data.tokenizer=" + place.path("llama/tokenizer.model")};
    all.insert(all.end(), changes.begin(), changes.end());
    return place.deck("run", all);
  };
}
/// One data file.
std::function<std::vector<std::string>(Workplace const&)> data_of(std::string const& text) {
  return [text](Workplace const& place) {
    place.write("mine.jsonl", text);
    return place.deck("run",
                      {"data.source=[{path=\"" + place.path("mine.jsonl") + "\"}]", "data.samples=40"});
  };
}

void replace_in(std::string const& path, std::string const& old, std::string const& now) {
  std::string text = read_all_text(path);
  auto const at = text.find(old);
  ASSERT_NE(at, std::string::npos) << old;
  text.replace(at, old.size(), now);
  std::ofstream(path, std::ios::binary) << text;
}

SmallLlama llama_with_vocabulary(Index vocabulary) {
  SmallLlama llama;
  llama.vocabulary = vocabulary;
  return llama;
}
SmallLlama llama_without(std::string const& tensor) {
  SmallLlama llama;
  llama.change = [tensor](std::string const& name, auto&, auto&) { return name != tensor; };
  return llama;
}
SmallLlama llama_with_wide(std::string const& tensor) {
  SmallLlama llama;
  llama.change = [tensor](std::string const& name, std::vector<Index>& shape, std::vector<float>& values) {
    if (name == tensor) {
      shape[0] += 2;
      values.resize(values.size() + static_cast<std::size_t>(2 * shape[1]));
    }
    return true;
  };
  return llama;
}
SmallLlama llama_with_nan() {
  SmallLlama llama;
  llama.change = [](std::string const& name, auto&, std::vector<float>& values) {
    if (name == "model.layers.1.mlp.up_proj.weight") values[3] = std::numeric_limits<float>::quiet_NaN();
    return true;
  };
  return llama;
}

std::vector<Mistake> mistakes() {
  std::vector<Mistake> all = {
      {"UnknownKey", deck_with("top_k = 2", "topk = 2"), {"deck.toml:", "post_train.topk", "\"top_k\""}},
      {"UnknownTable",
       deck_with("[post_train]", "[posttrain]"),
       {"deck.toml:", "posttrain", "\"post_train\""}},
      {"WrongType",
       deck_with("batch = 8\nmicro", "batch = \"many\"\nmicro"),
       {"deck.toml:", "train.batch", "many"}},
      {"OutOfRange",
       deck_with("batch = 8\nmicro", "batch = 0\nmicro"),
       {"deck.toml:", "train.batch", "at least 1"}},
      {"NotToml", deck_with("[train]", "[train"), {"deck.toml:"}},
      {"Several",
       deck_with("batch = 8\nmicro_batch = 8", "batch = -3\nmicro_batch = true\nclap = 1.0"),
       {"deck.toml:"},
       {"train.batch", "train.micro_batch", "train.clap", "\"clip\""}},
      {"UnknownOverride", with({"train.batchh=8"}), {"train.batchh", "\"batch\""}},
      {"WrongOverride", with({"train.batch=4.5"}), {"train.batch", "4.5"}},
      {"WordWithoutKey", with({"eight"}), {"eight", "table.key=value"}},
      {"MoreActiveThanExperts", with({"post_train.top_k=4"}), {"post_train.top_k", "expert.count"}},
      {"OneParent", with({"prepare.checkpoints=1"}), {"prepare.checkpoints", "m < 2"}},
      {"UnknownCommand",
       [](auto&) {
         return std::vector<std::string>{"chek", "deck.toml"};
       },
       {"chek", "check"}},
      {"NoDeck",
       [](Workplace const& p) { return std::vector<std::string>{p.path("none.toml")}; },
       {"none.toml", "No such file"}},
      {"NoSuchStage",
       [](Workplace const& p) {
         auto arguments = p.deck("run");
         arguments.insert(arguments.end(), {"--redo", "routing"});
         return arguments;
       },
       {"--redo", "routing", "post_train"}},
      {"TooFewStepsForCheckpoints", with({"prepare.epochs=0.1"}), {"checkpoints", "steps"}},

      {"NoBase", with({"model.base=nowhere"}), {"model.base", "nowhere", "not exist"}},
      {"BaseIsNoModel",
       [](Workplace const& p) {
         p.write("base.h5", "this is no HDF5 file at all");
         return p.deck("run", {"model.base=" + p.path("base.h5")});
       },
       {"base.h5", "not an HDF5 file"}},
      {"NoConfig",
       base_with({}, [](std::string const& f) { fs::remove(f + "/config.json"); }),
       {"config.json"}},
      {"NoWeights",
       base_with({}, [](std::string const& f) { fs::remove(f + "/model.safetensors"); }),
       {"llama", "model.safetensors"}},
      {"TruncatedWeights",
       base_with({},
                 [](std::string const& f) {
                   std::string const file = f + "/model.safetensors";
                   fs::resize_file(file, fs::file_size(file) - 100);
                 }),
       {"model.safetensors", "truncated"}},
      {"HeaderTooLong",
       base_with({},
                 [](std::string const& f) {
                   std::fstream file(f + "/model.safetensors",
                                     std::ios::in | std::ios::out | std::ios::binary);
                   std::uint64_t const length = std::uint64_t{1} << 62;
                   file.write(reinterpret_cast<char const*>(&length), sizeof length);
                 }),
       {"model.safetensors", "header"}},
      {"HeaderLies",
       base_with({},
                 [](std::string const& f) {
                   replace_in(f + "/model.safetensors", "\"shape\":[320,16]", "\"shape\":[920,16]");
                 }),
       {"model.safetensors", "lm_head.weight", "920"}},
      {"WrongShape",
       base_with(llama_with_wide("model.layers.1.mlp.down_proj.weight")),
       {"model.safetensors", "model.layers.1.mlp.down_proj.weight", "18", "16"}},
      {"MissingTensor",
       base_with(llama_without("model.layers.1.self_attn.v_proj.weight")),
       {"model.safetensors", "model.layers.1.self_attn.v_proj.weight"}},
      {"VocabularyMismatch", base_with(llama_with_vocabulary(200)), {"tokenizer.model", "200"}},
      {"BytesForAGivenModel", base_with({}, {}, {"data.tokenizer=bytes"}), {"data.tokenizer", "llama"}},
      {"ContextTooLong", base_with({}, {}, {"data.context=300"}), {"data.context", "300", "256"}},
      {"NoTokenizer", with({"data.tokenizer=none.model"}), {"none.model"}},
      {"TokenizerIsNone",
       [](Workplace const& p) {
         p.write("tokenizer.model", "no tokenizer");
         return p.deck("run", {"data.tokenizer=" + p.path("tokenizer.model")});
       },
       {"tokenizer.model", "SentencePiece"}},

      {"NoDataFile", with({"data.source=[{path=\"none.jsonl\"}]"}), {"none.jsonl", "No such file"}},
      {"BadLine",
       data_of(sample_lines(4, "tea") + "{\"instruction\": \n" + sample_lines(40, "milk")),
       {"mine.jsonl:5"}},
      {"LineWithoutField",
       data_of(sample_lines(2, "tea") + "{\"instruction\": \"x\"}\n"),
       {"mine.jsonl:3", "output"}},
      {"EmptyData", data_of(""), {"mine.jsonl", "no records"}},
      {"TooFewSamples", data_of(sample_lines(10, "tea")), {"mine.jsonl", "10", "data.samples"}},
      {"MoreSamplesThanTheFile",
       [](Workplace const& p) {
         p.write("mine.jsonl", sample_lines(10, "tea"));
         return p.deck(
             "run", {"data.source=[{path=\"" + p.path("mine.jsonl") + "\"}]", "data.samples=100000000000"});
       },
       {"mine.jsonl", "found 10", "data.samples = 100000000000"}},
      {"MoreSamplesThanTheGenerator",
       with({"data.samples=100000000000"}),
       {"data.samples = 100000000000", "generator:code", "at most 400000"}},
      {"MoreDocumentsThanTheGenerator",
       with({"pretrain.documents=100000000000"}),
       {"pretrain.documents = 100000000000", "at most 1000000"}},
      {"DamagedGzip",
       [](Workplace const& p) {
         p.write("mine.jsonl.gz", std::string("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03garbage garbage", 25));
         return p.deck("run",
                       {"data.source=[{path=\"" + p.path("mine.jsonl.gz") + "\"}]", "data.samples=40"});
       },
       {"mine.jsonl.gz", "gzip"}},

      // Root may write anywhere, but not below a file.
      {"DirectoryBelowAFile", with({"run.directory=deck.toml/run"}), {"deck.toml/run", "run directory"}},
      {"DirectoryInProc", with({"run.directory=/proc/upit"}), {"/proc/upit", "run directory"}},
      {"BrokenWeights", base_with(llama_with_nan()), {"not finite", "step 1"}},
  };
  if (std::is_same_v<Exec, HostExec>) {
    all.push_back({"Tf32OnAHost", with({"train.tf32=true"}), {"train.tf32 = true", "NVIDIA"}});
  }
  return all;
}

class Errors : public ::testing::TestWithParam<std::tuple<int, Mistake>> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Errors,
                         ::testing::Combine(::testing::Values(1, 2), ::testing::ValuesIn(mistakes())),
                         [](auto const& info) {
                           return std::get<1>(info.param).name + "On" +
                                  std::to_string(std::get<0>(info.param));
                         });

TEST_P(Errors, EndInOneLine) {
  auto const& [ranks, mistake] = GetParam();
  Workplace const place;
  Outcome const outcome = place.launch(ranks, mistake.arguments(place), 30.0);
  expect_one_error(outcome, mistake.parts);
  for (auto const& part : mistake.more) EXPECT_THAT(outcome.err, HasSubstr(part)) << outcome.err;
}

class Kept : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, Kept, ::testing::Values(1, 2),
                         [](auto const& info) { return "On" + std::to_string(info.param); });

TEST_P(Kept, AChangedKeyIsNamedAndRedoTakesIt) {
  Workplace const place;
  place.complete(GetParam(), "run");
  std::string const run = place.path("run");
  std::string const checkpoint = run + "/prepare/checkpoint_04.h5", model = run + "/post_train/model.h5";
  fs::copy_file(model, place.path("model.h5"));
  auto const written = fs::last_write_time(model), prepared = fs::last_write_time(checkpoint);
  std::string const deck = read_all_text(run + "/deck.toml");
  Outcome outcome = place.launch(GetParam(), place.deck("run", {"post_train.balance=0.5"}));
  expect_one_error(outcome, {"post_train", "balance", "0.01", "0.5", "--redo post_train"});
  outcome = place.launch(GetParam(), place.deck("run", {"route.alpha=0.25"}));
  expect_one_error(outcome, {"route", "alpha", "0.25", "--redo route"});
  EXPECT_EQ(fs::last_write_time(model), written);
  EXPECT_EQ(read_all_text(run + "/deck.toml"), deck);

  auto arguments = place.deck("run", {"post_train.balance=0.5"});
  arguments.insert(arguments.end(), {"--redo", "post_train"});
  outcome = place.launch(GetParam(), arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  EXPECT_FALSE(same_tensors(place.path("model.h5"), model));
  EXPECT_THAT(read_all_text(run + "/deck.toml"), HasSubstr("balance = 0.5"));
  EXPECT_EQ(fs::last_write_time(checkpoint), prepared);
  expect_no_row_twice(run);
  // And back: the first run again, bit for bit, with all that follows the stage made anew.
  arguments = place.deck("run");
  arguments.insert(arguments.end(), {"--redo", "expand"});
  outcome = place.launch(GetParam(), arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.all();
  expect_same_tensors(place.path("model.h5"), model);
  EXPECT_EQ(fs::last_write_time(checkpoint), prepared);
  expect_no_row_twice(run);
}

TEST_P(Kept, AnotherTokenizerInTheSamePlaceIsNoticed) {
  Workplace const place;
  std::string const tokenizer = "data.tokenizer=" + place.path("words/tokenizer.model");
  write_tokenizer(place, "words", "tea");
  Outcome const first = place.launch(GetParam(), place.deck("run", {tokenizer, "run.time_limit=5"}));
  ASSERT_EQ(first.code, 75) << first.all();
  write_tokenizer(place, "words", "iron");
  expect_one_error(place.launch(GetParam(), place.deck("run", {tokenizer})),
                   {"stage pretrain", "tokenizer_file"});
  write_tokenizer(place, "words", "tea");
  EXPECT_EQ(place.launch(GetParam(), place.deck("run", {tokenizer, "run.time_limit=5"})).code, 75);
}

TEST_P(Kept, ADamagedFileOfTheRunIsNamed) {
  Workplace const place;
  EXPECT_EQ(place.launch(GetParam(), place.deck("run", {"run.time_limit=5"})).code, 75);
  std::string const state = place.path("run/pretrain/state-00000001.h5");
  ASSERT_TRUE(fs::exists(state));
  std::string const whole = read_all_text(state);
  fs::resize_file(state, whole.size() / 2);
  expect_one_error(place.launch(GetParam(), place.deck("run")), {"pretrain/state-00000001.h5"});
  std::ofstream(state, std::ios::binary) << whole;
  place.complete(GetParam(), "run");
  fs::remove(place.path("run/prepare/checkpoint_03.h5"));
  auto arguments = place.deck("run");
  arguments.insert(arguments.end(), {"--redo", "expand"});
  expect_one_error(place.launch(GetParam(), arguments), {"prepare/checkpoint_03.h5"});
}

TEST_P(Kept, ALossThatIsNotFiniteNamesTheStepAndKeepsTheLastState) {
  Workplace const place;
  // Weights grow fourfold with every step of stage 1, the wrong way: 1 - 0.5 * 10. Some steps later nothing
  // is finite.
  std::vector<std::string> const wild = {"train.learning_rate=0.5", "train.weight_decay=10",
                                         "run.checkpoint_every=1", "prepare.epochs=20"};
  Outcome const outcome = place.launch(GetParam(), place.deck("run", wild));
  std::string const run = place.path("run");
  auto const states = state_steps(run, "prepare");
  ASSERT_FALSE(states.empty()) << outcome.all();
  std::string const last = std::to_string(states.back()), next = std::to_string(states.back() + 1);
  expect_one_error(outcome, {"prepare", "not finite", "step " + next, "step " + last + " is kept"});
  EXPECT_TRUE(is_complete(run, "pretrain"));
  EXPECT_TRUE(is_begun(run, "prepare"));
  // The state that is kept is whole: the same command reads it and meets the same step.
  Outcome const again = place.launch(GetParam(), place.deck("run", wild));
  expect_one_error(again, {"prepare", "not finite", "step " + next});
}

TEST_P(Kept, ASecondJobIsRefused) {
  Workplace const place;
  std::string const run = place.path("run");
  auto const first = place.start(GetParam(), place.deck("run", {"pretrain.epochs=1000"}));
  ASSERT_TRUE(
      wait_until([&] { return fs::exists(run + "/pretrain/stage.txt") || !first->running(); }, kPatience));
  std::string const holder = read_all_text(run + "/upit.lock");
  std::string process = holder.substr(holder.find(' ') + 1);
  process = process.substr(0, process.find(' '));
  EXPECT_TRUE(fs::exists("/proc/" + process)) << holder;
  Outcome const second = place.launch(GetParam(), place.deck("run", {"pretrain.epochs=1000"}), 30.0);
  expect_one_error(second, {"run", "another job", "process " + process});
  EXPECT_TRUE(first->running());
  // The lock goes with the job, however it ends.
  first->kill_all();
  Outcome const third =
      place.launch(GetParam(), place.deck("run", {"pretrain.epochs=1000", "run.time_limit=5"}));
  EXPECT_EQ(third.code, 75) << third.all();
}

TEST_P(Kept, AFullDiskIsNamedAndEarlierFilesStay) {
  Workplace const place;
  place.complete(GetParam(), "straight");
  std::string const run = place.path("run");
  fs::create_directories(run);
  for (char const* stage : {"pretrain", "prepare", "expand", "route"}) {
    fs::copy(place.path("straight/") + stage, run + "/" + stage, fs::copy_options::recursive);
  }
  auto const job = place.start(GetParam(), place.deck("run", {"post_train.epochs=50"}));
  auto const is_training = [&] { return fs::exists(run + "/post_train/stage.txt") || !job->running(); };
  ASSERT_TRUE(wait_until(is_training, kPatience, 0.2));
  // No file may grow beyond this: writing a state fails as on a full disk, with a reason, without a signal.
  rlimit const small = {20 << 10, 20 << 10};
  auto const ranks = ranks_of(*job);
  EXPECT_EQ(static_cast<int>(ranks.size()), GetParam());
  for (pid_t const one : ranks) EXPECT_EQ(::prlimit(one, RLIMIT_FSIZE, &small, nullptr), 0);
  expect_one_error(job->wait(30.0), {"post_train/state-", "File too large"});
  for (auto const& name : files_of(run)) {
    if (name.ends_with(".h5")) {
      EXPECT_NO_THROW(H5File::open(run + "/" + name, nullptr).close()) << name;  // whole or absent
    }
  }
  expect_same_tensors(place.path("straight/upcycle/moe.h5"), run + "/upcycle/moe.h5");
}

}  // namespace
}  // namespace upit::test
