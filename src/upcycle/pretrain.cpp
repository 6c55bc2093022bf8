// SPDX-License-Identifier: Apache-2.0
// Stage 0: a dense base. Only the embedded default needs it; real runs name a model.
#include <fmt/format.h>

#include "upit/config/printer.hpp"
#include "upit/io/hash.hpp"
#include "upit/upcycle/base_shapes.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/stages.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {
namespace {

BaseModel named_base(Run& run) {
  std::string const& path = run.deck().model.base;
  BaseModel base;
  base.path = path;
  run.world().agree([&] { base.model = base_shapes(run.deck(), run.tokenizer()); });
  if (Index const pieces = run.tokenizer().vocabulary(); pieces < base.model.vocabulary) {
    run.console().say(
        fmt::format("note: the tokenizer has {} pieces, the model's vocabulary {}; the rest are never met",
                    pieces, base.model.vocabulary));
  }
  ParameterTable const table(base.model, {});
  Weights<float> const weights(table);
  load_base(run, base, table, weights);
  base.hash = backbone_hash(table, weights);
  run.console().say(
      fmt::format("base: {} ({} parameters)", path, format_count(table.count(Group::backbone))));
  return base;
}

/// Documents are made here, so that no hash of samples tells of another tokenizer in the same place.
std::string tokenizer_inputs(Run const& run) {
  std::string const& name = run.deck().data.tokenizer;
  if (name == "bytes") return "";
  std::string hash;
  run.world().agree_on_root([&] { hash = hash_file(name); });
  run.world().broadcast(hash);
  return fmt::format("tokenizer_file = \"{}\"\n", hash);
}

}  // namespace

BaseModel pretrain(Run& run) {
  Deck const& deck = run.deck();
  if (!deck.model.base.empty()) return named_base(run);
  BaseModel base;
  run.world().agree([&] { base.model = base_shapes(deck, run.tokenizer()); });
  Stage stage(run, "pretrain",
              deck_table(deck, "model") + deck_table(deck, "pretrain") +
                  without(deck_table(deck, "train"), {"batch", "learning_rate", "schedule", "warmup"}) +
                  fmt::format("[run]\nseed = {}\n[data]\ncontext = {}\ntokenizer = \"{}\"\n", run.seed(),
                              deck.data.context, deck.data.tokenizer) +
                  tokenizer_inputs(run));
  base.path = run.path(stage.file("base.h5"));
  if (stage.complete()) {
    base.hash = read_model_info(base.path, &run.world()).base_hash;
    return base;
  }
  TokenStore documents;
  run.world().agree(
      [&] { documents = pretrain_documents(deck.pretrain, deck.data.context, run.tokenizer(), run.seed()); });
  stage.begin();
  Index const micro_batch = std::min(deck.train.micro_batch, deck.pretrain.batch);
  BatchPlan const plan(documents, deck.data.context, false, deck.pretrain.batch, micro_batch, run.seed());
  Trainer<float> trainer(run.world(), base.model, {}, {true, false, false},
                         plan.max_tokens_per_rank(run.world().size()), trainer_options(deck));
  initialise_backbone(trainer.table(), base.model, run.seed(), trainer.values());
  ModelFileInfo info = run.file_info("dense", base.model, {}, "", 0);
  LoopSettings settings =
      loop_settings(run, "pretrain", run.steps(plan.steps(deck.pretrain.epochs)), 0, info);
  settings.loss_on_all = true;
  settings.schedule = deck.pretrain.schedule;
  settings.learning_rate = deck.pretrain.learning_rate;
  settings.warmup = deck.pretrain.warmup;
  settings.output_bytes = model_file_bytes(trainer.table(), {true, false, false});
  LoopReport const report =
      train_loop(trainer, documents, plan, settings, loop_hooks(run), run.console(), run.metrics());
  say_training(run, "stage 0: pre-training on generated documents", report);
  info.base_hash = base.hash = backbone_hash(trainer.table(), trainer.weights());
  info.step = settings.steps;
  write_model_file(base.path, run.world(), info, trainer.table(), trainer.values(), {true, false, false});
  stage.finish(fmt::format("steps {}, last loss {:.4f}", settings.steps, report.last_loss));
  return base;
}

}  // namespace upit::upcycle
