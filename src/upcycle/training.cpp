// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/training.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "upit/config/printer.hpp"
#include "upit/train/load_model.hpp"

namespace upit::upcycle {

Precision precision_of(Deck const& deck) { return precision_named(deck.train.precision); }

TrainerOptions trainer_options(Deck const& deck) {
  TrainerOptions o;
  o.adamw.beta1 = deck.train.beta1;
  o.adamw.beta2 = deck.train.beta2;
  o.adamw.epsilon = deck.train.epsilon;
  o.adamw.weight_decay = deck.train.weight_decay;
  o.clip = deck.train.clip;
  o.loss_on_all = deck.data.loss_on == "all";
  o.seed = deck.run.seed;
  o.precision = precision_of(deck);
  return o;
}

namespace {

/// The base of a model whose FFN is its one expert: the same values under the expert's names.
void load_base_as_expert(Run& run, BaseModel const& base, ParameterTable const& table,
                         ModelWeights<float> const& weights) {
  ParameterTable const dense(base.model, {});
  Weights<float> const values(dense);
  load_base(run, base, dense, values);
  for (auto const& t : table.tensors()) {
    if (t.group == Group::router) continue;
    std::string name = t.name;
    if (t.group == Group::expert) name.replace(name.find(".experts."), 9, ".ffn.");
    assign(weights, t, values.tensor(dense.find(name)));
  }
}

}  // namespace

void load_base(Run& run, BaseModel const& base, ParameterTable const& table,
               ModelWeights<float> const& weights) {
  if (table.contains("layers.0.experts.gate_up")) return load_base_as_expert(run, base, table, weights);
  if (directory_on_root(base.path, run.world())) {
    run.world().agree([&] { load_huggingface(base.path, table, base.model, weights); });
  } else {
    read_model_file(base.path, &run.world(), table, weights, {true, false, false});
  }
}

LoopHooks loop_hooks(Run& run, std::function<void(Index)> after_step) {
  return {[&run](double reserve) { return run.should_stop(reserve); }, [&run] { return run.stop_reason(); },
          std::move(after_step)};
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
         fmt::format("[run]\nseed = {}\n[reads]\ntraining_set = \"{:016x}\"\n", run.seed(),
                     run.data().train.hash());
}

std::string lora_inputs(Deck const& deck) {
  return has_ffn_experts(deck) ? std::string() : without(deck_table(deck, "lora"), {"mix"});
}

std::string without(std::string const& table, std::vector<std::string_view> const& keys) {
  std::istringstream lines(table);
  std::string out, line;
  while (std::getline(lines, line)) {
    std::string const key = line.substr(0, line.find(' '));
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) out += line + '\n';
  }
  return out;
}

namespace {

/// Layer by layer, then what concerns ranks.
void say_routers(Run& run, RouterSummary const& r) {
  Table layers({"layer", "largest/mean load", "router entropy", "dead experts"});
  for (std::size_t l = 0; l < r.imbalance.size(); ++l) {
    layers.row({fmt::format("{}", l), fmt::format("{:.2f}", r.imbalance[l]),
                fmt::format("{:.3f}", r.entropy[l]), fmt::format("{}", r.dead[l])});
  }
  run.console().say(
      layers, fmt::format("routers in the last step; dead: without a token in the last {} steps", r.window));
  if (r.rank_imbalance <= 0.0) return;
  run.console().say(
      fmt::format("token exchange: {} a step over all ranks, {:.1f} ms of waiting, {:.1f} % of the step; at "
                  "most {} rounds; load of the fullest rank in the worst layer {:.2f} x the mean",
                  format_bytes(static_cast<Index>(r.exchange_bytes)), 1e3 * r.exchange_seconds,
                  100.0 * r.exchange_share, r.rounds, r.rank_imbalance));
}

}  // namespace

void say_training(Run& run, std::string const& title, LoopReport const& r) {
  if (std::isnan(r.last_loss)) return;  // all steps were done before this launch
  std::vector<std::string> headers = {"steps", "tokens", "time", "tokens/s", "first loss", "last loss"};
  std::vector<std::string> row = {
      format_count(r.steps),
      format_count(r.tokens),
      format_duration(r.seconds),
      fmt::format("{:.0f}", static_cast<double>(r.tokens) / std::max(r.seconds, 1e-9)),
      fmt::format("{:.4f}", r.first_loss),
      fmt::format("{:.4f}", r.last_loss)};
  RouterSummary const& routers = r.routers;
  bool const gates = !routers.imbalance.empty();
  if (gates) {
    headers.push_back("balance loss");
    row.push_back(fmt::format("{:.3f}", routers.balance));
  }
  Table table(headers);
  table.row(row);
  run.console().say(table, r.first > 0 ? fmt::format("{}, since step {}", title, r.first) : title);
  if (gates) say_routers(run, routers);
}

}  // namespace upit::upcycle
