// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/training.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "upit/config/printer.hpp"
#include "upit/train/load_model.hpp"

namespace upit::upcycle {

TrainerOptions trainer_options(Deck const& deck) {
  TrainerOptions o;
  o.adamw.beta1 = deck.train.beta1;
  o.adamw.beta2 = deck.train.beta2;
  o.adamw.epsilon = deck.train.epsilon;
  o.adamw.weight_decay = deck.train.weight_decay;
  o.clip = deck.train.clip;
  o.loss_on_all = deck.data.loss_on == "all";
  o.seed = deck.run.seed;
  return o;
}

void load_base(Run& run, BaseModel const& base, ParameterTable const& table, Weights<float> const& weights) {
  if (std::filesystem::is_directory(base.path)) {
    run.world().agree([&] { load_huggingface(base.path, table, base.model, weights); });
  } else {
    read_model_file(base.path, &run.world(), table, weights, {true, false, false});
  }
}

LoopHooks loop_hooks(Run& run, std::function<void(Index)> after_step) {
  return {[&run] { return run.should_stop(); }, [&run] { return run.stop_reason(); }, std::move(after_step)};
}

LoopSettings loop_settings(Run& run, std::string const& stage, Index steps, Index first_sample,
                           ModelFileInfo const& info) {
  Deck const& deck = run.deck();
  LoopSettings s;
  s.title = stage;
  s.directory = run.path(stage);
  s.steps = steps;
  s.first_sample = first_sample;
  s.loss_on_all = deck.data.loss_on == "all";
  s.schedule = deck.train.schedule;
  s.learning_rate = deck.train.learning_rate;
  s.warmup = deck.train.warmup;
  s.checkpoint_every = deck.run.checkpoint_every;
  s.log_every = run.options().rehearse > 0 ? 1 : deck.run.log_every;
  s.info = info;
  return s;
}

std::string data_inputs(Run const& run) {
  return deck_table(run.deck(), "data") + deck_table(run.deck(), "train") +
         fmt::format("seed = {}\ntraining_set = \"{:016x}\"\n", run.seed(), run.data().train.hash());
}

}  // namespace upit::upcycle
