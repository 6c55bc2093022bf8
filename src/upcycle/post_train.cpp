// SPDX-License-Identifier: Apache-2.0
// Stage 5: post-train experts and router with the load-balancing loss (UpIT, section 2.2).
#include <fmt/format.h>

#include "upit/config/printer.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/stages.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {

MoeModel post_train(Run& run, MoeModel const& assembled) {
  Deck const& deck = run.deck();
  Stage stage(run, "post_train",
              data_inputs(run) + deck_table(deck, "post_train") +
                  (has_ffn_experts(deck) ? "" : fmt::format("[lora]\ndropout = {}\n", deck.lora.dropout)) +
                  fmt::format("[prepare]\nepochs = {}\n[reads]\nupcycle = \"{}\"\n", deck.prepare.epochs,
                              assembled.hash));
  MoeModel const moe{assembled.base, stage.file("model.h5"), assembled.experts, stage.output_hash()};
  if (stage.complete()) return moe;
  stage.begin();
  BatchPlan const plan(run.data().train, deck.data.context, deck.data.packing, deck.train.batch,
                       deck.train.micro_batch, run.seed());
  ModelConfig const& model = assembled.base.model;
  ExpertConfig const expert = moe_experts(deck, assembled.experts);
  TrainerOptions options = trainer_options(deck);
  options.balance = deck.post_train.balance;
  // Dropout goes on from other masks than stage 1 had at the same step number.
  options.seed = deck.run.seed + 0x9e3779b97f4a7c15ULL;
  Trainer<float> trainer(run.world(), model, expert, moe_trained(deck),
                         plan.max_tokens_per_rank(run.world().size()), options, run.parallel());
  read_model_file(run.path(assembled.file), &run.world(), trainer.table(), trainer.values(),
                  {true, true, true});
  // Epochs count on from stage 1, so that the order of data depends on (seed, epoch) alone.
  Index const first_sample = plan.samples_seen(plan.steps(deck.prepare.epochs));
  Index const steps = run.steps(plan.steps(deck.post_train.epochs));
  LoopSettings settings = loop_settings(run, "post_train", steps, first_sample,
                                        run.file_info("state", model, expert, assembled.base.hash, 0));
  settings.output_bytes = model_file_bytes(trainer.table(), {true, true, true});
  LoopReport const report =
      train_loop(trainer, run.data().train, plan, settings, loop_hooks(run), run.console(), run.metrics());
  say_training(run, "stage 5: post-training", report);
  write_model_file(run.path(moe.file), run.world(),
                   run.file_info("moe", model, expert, assembled.base.hash, steps), trainer.table(),
                   trainer.values(), {true, true, true}, trainer.parallel().grid, run.path(assembled.file));
  stage.finish(fmt::format("steps {}, last loss {:.4f}", steps, report.last_loss));
  return moe;
}

}  // namespace upit::upcycle
