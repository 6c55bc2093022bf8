// SPDX-License-Identifier: Apache-2.0
// Stage 1: instruction-tune the dense model and keep intermediate checkpoints as experts (UpIT, section 2.1).
#include <fmt/format.h>

#include <cmath>

#include "upit/config/printer.hpp"
#include "upit/core/error.hpp"
#include "upit/io/hash.hpp"
#include "upit/upcycle/checkpoints.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/stages.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {
namespace {

/// The values of a base do not tell how many heads they belong to, nor what is in its configuration alone.
std::string base_inputs(BaseModel const& base) {
  ModelConfig const& m = base.model;
  return fmt::format(
      "[base]\nlayers = {}\nwidth = {}\nheads = {}\nkv_heads = {}\nhead_width = {}\nffn = {}\n"
      "vocabulary = {}\nnorm_eps = {}\nrope_theta = {}\ntied = {}\nvalues = \"{}\"\n",
      m.layers, m.width, m.heads, m.kv_heads, m.head_width, m.ffn, m.vocabulary, m.norm_eps, m.rope_theta,
      m.tied, base.hash);
}

}  // namespace

std::vector<Index> checkpoint_steps(Index steps, Index m) {
  require(steps >= 2 * m,
          fmt::format("{} checkpoints are chosen from {} saved ones, but stage 1 has only {} steps; "
                      "more epochs or a smaller train.batch give more",
                      m, 2 * m, steps));
  std::vector<Index> at;
  for (Index j = 1; j <= 2 * m; ++j) at.push_back((2 * j * steps + 2 * m) / (4 * m));  // round(j T / 2m)
  return at;
}

std::vector<Index> selected_checkpoints(std::string const& select, Index m, bool include_base) {
  std::vector<Index> chosen;
  for (Index j = 1; j <= 2 * m; ++j) {
    bool const take = select == "back_half" ? j > m : select == "front_half" ? j <= m : j % 2 == 0;
    if (take) chosen.push_back(j);
  }
  require(
      static_cast<Index>(chosen.size()) == m,
      fmt::format("prepare.select is \"{}\"; allowed: \"back_half\", \"front_half\", \"uniform\"", select));
  if (include_base) chosen.front() = 0;  // the base takes the place of the earliest (Table 5)
  return chosen;
}

ExpertSet prepare(Run& run, BaseModel const& base) {
  Deck const& deck = run.deck();
  Index const m = deck.prepare.checkpoints;
  Stage stage(run, "prepare",
              data_inputs(run) + lora_inputs(deck) +
                  without(deck_table(deck, "prepare"), {"select", "include_base"}) +
                  fmt::format("[expert]\nkind = \"{}\"\n", deck.expert.kind) + base_inputs(base));
  auto const file = [&](Index j) { return stage.file(fmt::format("checkpoint_{:02}.h5", j)); };
  ExpertSet set;
  set.base = base;
  // All 2m checkpoints are there whatever is chosen of them: one preparation serves every choice.
  set.hash =
      hash_text(fmt::format("{} {} {}", stage.output_hash(), deck.prepare.select, deck.prepare.include_base));
  std::vector<Index> chosen;
  run.world().agree(
      [&] { chosen = selected_checkpoints(deck.prepare.select, m, deck.prepare.include_base); });
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i] == 0) set.base_is = static_cast<Index>(i);
    set.files.push_back(file(chosen[i]));
  }
  if (has_ffn_experts(deck)) set.backbones = set.files;
  if (stage.complete()) return set;

  BatchPlan const plan(run.data().train, deck.data.context, deck.data.packing, deck.train.batch,
                       deck.train.micro_batch, run.seed());
  Index const planned = plan.steps(deck.prepare.epochs);
  // A rehearsal still saves 2m checkpoints, so it takes that many steps at least.
  Index const steps = run.options().rehearse > 0 ? std::max(run.steps(planned), 2 * m) : planned;
  std::vector<Index> at;
  run.world().agree([&] { at = checkpoint_steps(steps, m); });
  stage.begin();
  ExpertConfig const expert = single_expert(deck, RouterUse::none);
  Trainer<float> trainer(run.world(), base.model, expert, dense_trained(deck),
                         plan.max_tokens_per_rank(run.world().size()), trainer_options(deck));
  load_base(run, base, trainer.table(), trainer.values());
  if (expert.has_lora()) initialise_lora(trainer.table(), run.seed(), trainer.values());
  auto const save = [&](Index j, Index step) {
    write_model_file(run.path(file(j)), run.world(),
                     run.file_info("expert", base.model, expert, base.hash, step), trainer.table(),
                     trainer.values(), expert_groups(deck));
  };
  // The base as an expert: LoRA as it starts, B = 0, or the model as it starts. Task vectors begin there.
  if (!run.directory().exists(file(0))) save(0, 0);
  auto const after_step = [&](Index step) {
    for (std::size_t j = 0; j < at.size(); ++j) {
      if (at[j] == step) save(static_cast<Index>(j) + 1, step);
    }
  };
  LoopSettings settings =
      loop_settings(run, "prepare", steps, 0, run.file_info("state", base.model, expert, base.hash, 0));
  settings.output_bytes = (2 * m + 1) * model_file_bytes(trainer.table(), expert_groups(deck));
  LoopReport const report = train_loop(trainer, run.data().train, plan, settings, loop_hooks(run, after_step),
                                       run.console(), run.metrics());
  Table table({"checkpoint", "step", "epoch", "expert"});
  for (Index j = 1; j <= 2 * m; ++j) {
    auto const place = std::find(chosen.begin(), chosen.end(), j);
    Index const step = at[static_cast<std::size_t>(j - 1)];
    table.row({fmt::format("{}", j), fmt::format("{}", step),
               fmt::format("{:.2f}", static_cast<double>(plan.samples_seen(step)) /
                                         static_cast<double>(plan.samples())),
               place == chosen.end() ? "-" : fmt::format("{}", place - chosen.begin())});
  }
  say_training(run, "stage 1: instruction tuning", report);
  run.console().say(table, fmt::format("checkpoints kept as experts ({})", deck.prepare.select));
  stage.finish(fmt::format("steps {}, last loss {:.4f}", steps, report.last_loss));
  return set;
}

}  // namespace upit::upcycle
