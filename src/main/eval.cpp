// SPDX-License-Identifier: Apache-2.0
// Owns `upit eval`: losses of a model on instruction files or on token lists.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "upit/core/error.hpp"
#include "upit/io/files.hpp"
#include "upit/text/dataset.hpp"
#include "upit/train/evaluation.hpp"
#include "upit/train/load_model.hpp"
#include "upit/upcycle/base_shapes.hpp"

namespace upit {
namespace {

using nlohmann::json;

void require_finite(Evaluation const& evaluation, std::string const& path) {
  for (std::size_t s = 0; s < evaluation.nll.size(); ++s) {
    require(
        std::isfinite(evaluation.nll[s]),
        fmt::format("{}: the loss of sample {} is not finite; the model's weights are damaged", path, s + 1));
  }
}

void add_row(Table& table, PartLoss const& part, Index truncated, Index dropped) {
  table.row({part.name, format_count(part.samples), format_count(part.targets),
             fmt::format("{:.5f}", part.mean()), fmt::format("{:.4f}", part.perplexity()),
             format_count(truncated), format_count(dropped)});
}

json to_json(PartLoss const& part, Index truncated, Index dropped) {
  return {{"file", part.name},   {"samples", part.samples},         {"targets", part.targets},
          {"loss", part.mean()}, {"perplexity", part.perplexity()}, {"truncated", truncated},
          {"dropped", dropped}};
}

void write_json(std::string const& path, json const& value, Communicator const& world) {
  if (!path.empty()) world.agree_on_root([&] { write_text_file(path, value.dump(1) + "\n"); });
}

/// What reads the files as this model was trained on them, unless the command line says otherwise.
struct Reader {
  DataDeck deck;
  std::unique_ptr<Tokenizer> tokenizer;

  Reader(EvalCommand const& command, ModelFileInfo const& info) {
    deck.tokenizer = command.tokenizer.empty() ? info.tokenizer : command.tokenizer;
    deck.format = command.format.empty() ? info.prompt : command.format;
    deck.loss_on = command.loss_on;
    deck.too_long = command.too_long;
    deck.context = command.context > 0 ? command.context : info.model.context;
    require(!deck.tokenizer.empty(),
            fmt::format("{} has no tokenizer of its own; name one with --tokenizer", command.model));
    require(deck.context <= info.model.context, fmt::format("--context is {}; {} allows at most {}",
                                                            deck.context, command.model, info.model.context));
    tokenizer = make_tokenizer(deck.tokenizer);
    upcycle::check_tokenizer(command.tokenizer.empty() ? "the tokenizer" : "--tokenizer", deck.tokenizer,
                             *tokenizer, command.model, info);
  }
};

void evaluate_data(EvalCommand const& command, LoadedModel const& loaded, Evaluator<float>& evaluator,
                   Communicator const& world, Console& console) {
  std::unique_ptr<Reader> reader;
  world.agree([&] { reader = std::make_unique<Reader>(command, loaded.info); });
  console.say(fmt::format("tokenizer {}, template {}, loss on {}, context {}", reader->deck.tokenizer,
                          reader->deck.format, reader->deck.loss_on, reader->deck.context));
  EvaluationOptions options;
  options.micro_batch = command.micro_batch;
  options.loss_on_all = reader->deck.loss_on == "all";
  Table table({"file", "samples", "targets", "loss", "perplexity", "truncated", "dropped"});
  PartLoss all;
  all.name = "all";
  Index truncated = 0, dropped = 0;
  json out = json::array();
  for (auto const& path : command.data) {
    TokenStore store;
    DataReport report;
    world.agree([&] { store = load_file(path, path, reader->deck, *reader->tokenizer, &report); });
    Evaluation const evaluation = evaluator.evaluate(loaded.weights, store, options);
    world.agree([&] { require_finite(evaluation, path); });
    PartLoss const part = total_loss(evaluation, path);
    add_row(table, part, report.truncated, report.dropped);
    out.push_back(to_json(part, report.truncated, report.dropped));
    all.nll += part.nll;
    all.samples += part.samples;
    all.targets += part.targets;
    truncated += report.truncated;
    dropped += report.dropped;
  }
  if (command.data.size() > 1) add_row(table, all, truncated, dropped);
  console.say(table);
  write_json(command.json, out, world);
}

void evaluate_tokens(EvalCommand const& command, LoadedModel const& loaded, Evaluator<float>& evaluator,
                     Communicator const& world, Console& console) {
  TokenStore store;
  world.agree([&] {
    store = store = read_token_lines(command.tokens, loaded.info.model.vocabulary, loaded.info.model.context);
  });
  EvaluationOptions options;
  options.micro_batch = command.micro_batch;
  options.loss_on_all = options.keep_tokens = true;
  Evaluation const evaluation = evaluator.evaluate(loaded.weights, store, options);
  world.agree([&] { require_finite(evaluation, command.tokens); });
  json out = json::array();
  for (std::size_t s = 0; s < evaluation.nll.size(); ++s) {
    auto const begin = evaluation.token_nll.begin();
    out.push_back({{"nll", std::vector<double>(begin + evaluation.token_begin[s],
                                               begin + evaluation.token_begin[s + 1])},
                   {"mean", evaluation.nll[s] / static_cast<double>(evaluation.targets[s])}});
  }
  Table table({"file", "lines", "targets", "loss", "perplexity"});
  PartLoss const all = total_loss(evaluation, command.tokens);
  table.row({all.name, format_count(all.samples), format_count(all.targets),
             fmt::format("{:.5f}", all.mean()), fmt::format("{:.4f}", all.perplexity())});
  console.say(table);
  write_json(command.json, out, world);
}

}  // namespace

int evaluate_model(EvalCommand const& command, Communicator const& world, Console& console) {
  LoadedModel const loaded = load_model(command.model, world);
  Evaluator<float> evaluator(world, loaded.info.model, loaded.info.expert, *loaded.table);
  if (command.tokens.empty()) {
    evaluate_data(command, loaded, evaluator, world, console);
  } else {
    evaluate_tokens(command, loaded, evaluator, world, console);
  }
  return 0;
}

}  // namespace upit
