// SPDX-License-Identifier: Apache-2.0
// Owns the words of the command line and the help that explains them.
#include "command_line.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <Kokkos_Core.hpp>

#include "upit/config/describe.hpp"
#include "upit/core/error.hpp"
#include "upit/core/version.hpp"

namespace upit {
namespace {

constexpr char const* kHelp =
    R"(upit turns a dense Llama-type language model into a mixture of experts that follows instructions
(UpIT, arXiv 2410.01610): tune it and keep checkpoints as experts, merge pairs into more experts, train a router
for each, stack them into one model, train that.

  upit DECK.toml [table.key=value ...]            run a deck; the same command goes on after an interruption
  upit check DECK.toml [table.key=value ...]      read it, print the plan: steps, memory, disk; train nothing
  upit rehearse DECK.toml [table.key=value ...]   run every stage for a few steps, in a folder beside the run's
  upit deck [DECK.toml] --all                     every key with its value, default, unit and meaning
  upit inspect FILE...                            what a model file holds: shapes, norms, extremes
  upit eval MODEL --data FILE.jsonl...            loss and perplexity by file
  upit eval MODEL --tokens FILE.jsonl --json OUT  loss of every token of given token lists
  upit bench                                      speed of training steps beside that of the BLAS

  --redo STAGE   start this stage and those after it again: pretrain, prepare, expand, route, upcycle,
                 post_train, evaluate
  --version      versions of the program and of what it was built with
  -h, --help     this text; after a command, that command's options

Begin with
  mpirun -n 2 upit inputs/lora8e.toml                     everything from nothing, in minutes, on two cores
  mpirun -n 2 upit inputs/ffn4e.toml                      the same with whole FFNs as experts, spread over both ranks
  upit check inputs/lora8e.toml                           what that will take
  mpirun -n 2 upit inputs/lora8e.toml post_train.top_k=4 run.directory=runs/top4
  upit inspect runs/lora8e/post_train/model.h5            the model that came of it
  upit deck --all > my.toml                               a deck of your own, every key explained

MODEL is a Hugging Face Llama directory or a dense or MoE file of upit. Each rank takes its share of the CPUs;
OMP_NUM_THREADS overrules. Exit codes: 0 done, 1 error, 75 stopped by a signal or run.time_limit with a checkpoint
saved: run the same command again.
)";

std::string version_text() {
  return fmt::format("upit {} ({}), Kokkos {}.{}.{} with {}\n", version(), git_hash(), KOKKOS_VERSION / 10000,
                     KOKKOS_VERSION / 100 % 100, KOKKOS_VERSION % 100, Exec::name());
}

/// What the options are written to before one command is made of it.
struct Words {
  RunCommand run, rehearse;
  CheckCommand check;
  DeckCommand deck;
  InspectCommand inspect;
  EvalCommand eval;
  BenchCommand bench;
  std::string mix = "branch", precision = "fp32", ceiling = "each";
  std::vector<std::string> cases;
};

CLI::Validator at_least(Index low) { return CLI::Range(low, Index{1} << 30).description(""); }

void add_deck(CLI::App& app, std::string& deck, std::vector<std::string>& overrides, bool required) {
  app.add_option("DECK", deck, "TOML file that describes the run")->required(required);
  app.add_option("table.key=value", overrides, "keys that win over the deck");
}

void add_eval(CLI::App& app, EvalCommand& c) {
  app.add_option("MODEL", c.model, "Hugging Face Llama directory, or a dense or MoE file of upit")
      ->required();
  auto* const data =
      app.add_option("--data", c.data, "JSON lines with instruction, input, output; plain or gzip");
  auto* const tokens = app.add_option("--tokens", c.tokens, "JSON lines {\"tokens\": [...]}");
  tokens->excludes(data);
  app.add_option("--json", c.json, "write results to this file");
  app.add_option("--tokenizer", c.tokenizer, "\"bytes\" or a tokenizer.model, instead of the model's")
      ->needs(data);
  app.add_option("--template", c.format, "prompt template, instead of the model's")
      ->check(CLI::IsMember({"plain", "alpaca"}))
      ->needs(data);
  app.add_option("--loss-on", c.loss_on, "tokens that count")
      ->check(CLI::IsMember({"response", "all"}))
      ->capture_default_str()
      ->needs(data);
  app.add_option("--too-long", c.too_long, "what happens to a sample above the context")
      ->check(CLI::IsMember({"truncate", "drop", "error"}))
      ->capture_default_str()
      ->needs(data);
  app.add_option("--context", c.context, "longest sample in tokens, instead of the model's")
      ->check(at_least(4))
      ->needs(data);
  app.add_option("--micro-batch", c.micro_batch, "samples of one forward pass, over all ranks")
      ->check(at_least(1))
      ->capture_default_str();
  app.footer(
      "Examples:\n"
      "  upit eval runs/lora8e/post_train/model.h5 --data mine.jsonl other.jsonl.gz\n"
      "  upit eval path/to/llama --tokens ids.jsonl --json nll.json\n"
      "OUT of --tokens: a list with, per line, \"nll\" (natural log, one per predicted token) and \"mean\".");
}

void add_bench(CLI::App& app, Words& w) {
  BenchOptions& o = w.bench.options;
  ModelConfig& m = o.model;
  m.width = 512;
  m.layers = 8;
  m.heads = m.kv_heads = 8;
  m.ffn = 1376;
  m.vocabulary = 32000;
  m.context = 512;
  auto const count = [&app](char const* name, Index& value, char const* meaning) {
    app.add_option(name, value, meaning)->check(at_least(1))->capture_default_str();
  };
  count("--width", m.width, "d");
  count("--layers", m.layers, "L");
  count("--heads", m.heads, "H");
  count("--kv-heads", m.kv_heads, "G");
  count("--ffn", m.ffn, "f");
  count("--vocabulary", m.vocabulary, "V");
  count("--sequence", m.context, "tokens of a sequence, s");
  count("--sequences", o.sequences, "sequences of a step, over all ranks");
  count("--experts", o.experts, "E of ffn_moe and lora_moe");
  count("--top-k", o.active, "K of ffn_moe and lora_moe");
  count("--group", o.group, "ranks that share the FFN experts of ffn_moe");
  count("--chunks", o.chunks, "pieces of a round of the token exchange");
  app.add_option("--capacity", o.capacity, "rows of a rank's buffers over the balanced load")
      ->check(CLI::Range(0.01, 1e3))
      ->capture_default_str();
  count("--rank", o.rank, "r");
  count("--repeat", o.repeats, "timed steps of each case");
  app.add_option("--precision", w.precision, "type of weights and activations, and of the ceiling's products")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  app.add_flag("--tf32", o.tf32,
               "fp32 products, the ceiling's too, round their inputs to TF32; NVIDIA devices only");
  app.add_option("--mix", w.mix, "where experts are summed: in each linear, or after whole FFNs")
      ->check(CLI::IsMember({"branch", "ffn"}))
      ->capture_default_str();
  app.add_option(
         "--cases", w.cases,
         "what to time, separated by commas: dense, dense_wide (FFN K f wide), lora, ffn_moe, lora_moe")
      ->delimiter(',')
      ->check(CLI::IsMember({"dense", "dense_wide", "lora", "ffn_moe", "lora_moe"}))
      ->default_str("dense,lora,ffn_moe,lora_moe");
  app.add_option("--ceiling", w.ceiling, "when to sample the ceiling: around each step, or once at each end")
      ->check(CLI::IsMember({"each", "once"}))
      ->capture_default_str();
  app.add_flag("--profile", o.profile,
               "tell where the time of the steps goes, by region and kernel, on rank 0");
  app.add_option("--json", w.bench.json, "write results to this file");
  app.footer(
      "A step: zero gradients, forward, backward, clipping, AdamW; random tokens, every position a loss "
      "token.\n"
      "Ceiling: best over the linked BLASes of three products in that precision, all ranks at once, sampled "
      "before\n"
      "and after each step. Best share: fastest step over highest ceiling; median share: each step over the\n"
      "ceiling beside it.");
}

Command bench_command(Words w) {
  BenchOptions& o = w.bench.options;
  require(o.model.width % o.model.heads == 0,
          fmt::format("--width is {}; allowed: a multiple of --heads, {}", o.model.width, o.model.heads));
  o.model.head_width = o.model.width / o.model.heads;
  o.ceiling_each = w.ceiling == "each";
  o.mix = w.mix == "ffn" ? LoraMix::ffn : LoraMix::branch;
  o.precision = precision_named(w.precision);
  if (!w.cases.empty()) o.cases.clear();
  for (auto const& name : w.cases) {
    for (auto const kind : {BenchKind::dense, BenchKind::dense_wide, BenchKind::lora, BenchKind::ffn_moe,
                            BenchKind::lora_moe}) {
      if (name == name_of(kind)) o.cases.push_back(kind);
    }
  }
  return w.bench;
}

/// A word that cannot be a deck's path is taken for a misspelt command.
void require_path(std::string const& word, CLI::App const& app) {
  if (word.find_first_of("./") != std::string::npos) return;
  std::vector<std::string> names;
  for (auto const* command : app.get_subcommands([](CLI::App const*) { return true; })) {
    names.push_back(command->get_name());
  }
  fail(
      fmt::format("\"{}\" is neither a command ({}) nor the path of a deck (NAME.toml); did you mean \"{}\"?",
                  word, fmt::join(names, ", "), nearest(word, names)));
}

std::string one_line(std::string text) {
  for (char& c : text) c = c == '\n' ? ' ' : c;
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

}  // namespace

Command parse_command_line(int argc, char const* const* argv) {
  Words w;
  CLI::App app("", "upit");
  app.set_version_flag("--version", version_text());
  add_deck(app, w.run.deck, w.run.overrides, false);
  app.add_option("--redo", w.run.redo, "stage to start again, with those after it");

  auto* const check = app.add_subcommand("check", "Read a deck and print the plan; train nothing.");
  add_deck(*check, w.check.deck, w.check.overrides, true);
  check->add_option("--ranks", w.check.ranks, "plan for so many ranks, instead of those that run")
      ->check(at_least(1));
  auto* const rehearse = app.add_subcommand(
      "rehearse", "Run every stage of a deck for two steps, stage 1 for as many as it saves checkpoints.");
  add_deck(*rehearse, w.rehearse.deck, w.rehearse.overrides, true);
  auto* const deck =
      app.add_subcommand("deck", "Print a deck with every key written out; without one, the defaults.");
  add_deck(*deck, w.deck.deck, w.deck.overrides, false);
  deck->add_flag("--all", w.deck.comments, "with default, unit and meaning of every key");
  auto* const inspect =
      app.add_subcommand("inspect", "Print what a model file says about itself and its tensors.");
  inspect
      ->add_option("FILE", w.inspect.paths, "HDF5 file of upit, safetensors file, or Hugging Face directory")
      ->required();
  auto* const eval = app.add_subcommand("eval", "Print loss and perplexity of a model.");
  add_eval(*eval, w.eval);
  auto* const bench = app.add_subcommand("bench", "Time training steps on random weights and tokens.");
  add_bench(*bench, w);
  app.require_subcommand(0, 1);
  app.formatter_fn(
      [](CLI::App const*, std::string const&, CLI::AppFormatMode) { return std::string(kHelp); });

  try {
    app.parse(argc, argv);
  } catch (CLI::CallForHelp const&) {
    return TextCommand{app.help()};
  } catch (CLI::CallForVersion const&) {
    return TextCommand{version_text()};
  } catch (CLI::ParseError const& e) {
    std::string asked = "upit";
    for (auto const* command : app.get_subcommands()) asked += " " + command->get_name();
    if (!w.run.deck.empty()) require_path(w.run.deck, app);
    fail(fmt::format("{} (see {} --help)", one_line(e.what()), asked));
  }
  auto const commands = app.get_subcommands();
  if (!w.run.deck.empty()) {
    require_path(w.run.deck, app);
    for (auto const* command : commands) {
      fail(fmt::format("a command stands before the deck: upit {} {}", command->get_name(), w.run.deck));
    }
    return w.run;
  }
  require(w.run.redo.empty(), "--redo needs the deck of the run: upit DECK.toml --redo " + w.run.redo);
  if (*check) return w.check;
  if (*rehearse) {
    w.rehearse.rehearse = true;
    return w.rehearse;
  }
  if (*deck) {
    bool const path = w.deck.deck.find('=') == std::string::npos;
    if (!path) w.deck.overrides.insert(w.deck.overrides.begin(), std::exchange(w.deck.deck, ""));
    return w.deck;
  }
  if (*inspect) return w.inspect;
  if (*eval) {
    require(w.eval.data.empty() != w.eval.tokens.empty(), "upit eval needs --data FILE... or --tokens FILE");
    return w.eval;
  }
  if (*bench) return bench_command(std::move(w));
  fail("give a deck (upit DECK.toml) or a command; upit --help lists them");
}

}  // namespace upit
