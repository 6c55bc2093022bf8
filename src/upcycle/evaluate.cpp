// SPDX-License-Identifier: Apache-2.0
// Stage 6: what came of it. Held-out loss by domain, who gets whose tokens, and how much that says of
// domains.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "upit/config/printer.hpp"
#include "upit/core/error.hpp"
#include "upit/train/evaluation.hpp"
#include "upit/upcycle/mutual_information.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/stages.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {
namespace {

using nlohmann::json;

constexpr Index kPermutations = 20;

/// One model's line in the table of losses.
struct Scored {
  std::string name;
  Evaluation evaluation;
};

EvaluationOptions options_of(Deck const& deck, bool moe) {
  EvaluationOptions o;
  o.micro_batch = deck.evaluate.micro_batch;
  o.loss_on_all = deck.data.loss_on == "all";
  o.count_experts = moe;
  return o;
}

Evaluation score_dense(Run& run, BaseModel const& base, std::string const& expert_file) {
  ExpertConfig const expert =
      expert_file.empty() ? ExpertConfig{} : single_expert(run.deck(), RouterUse::none);
  ParameterTable const table(base.model, expert);
  ModelWeights<float> const weights(precision_of(run.deck()), table);
  load_base(run, base, table, weights);
  if (!expert_file.empty()) {
    read_model_file(run.path(expert_file), &run.world(), table, weights, expert_groups(run.deck()));
  }
  Evaluator<float> evaluator(run.world(), base.model, expert, table);
  return evaluator.evaluate(weights, run.data().held_out, options_of(run.deck(), false));
}

/// `random_router`: routers drawn afresh, for comparison.
Evaluation score_moe(Run& run, MoeModel const& moe, bool random_router) {
  ExpertConfig const expert = moe_experts(run.deck(), moe.experts);
  ExpertParallel const parallel = run.parallel();
  ParameterTable const table(moe.base.model, expert, {},
                             expert.mixes_ffns() ? parallel.held(expert.count) : ExpertRange{});
  ModelWeights<float> const weights(precision_of(run.deck()), table);
  read_model_file(run.path(moe.file), &run.world(), table, weights, {true, true, true});
  if (random_router) initialise_router(table, run.seed() + 1, moe.experts, weights);
  Evaluator<float> evaluator(run.world(), moe.base.model, expert, table, parallel);
  return evaluator.evaluate(weights, run.data().held_out, options_of(run.deck(), true));
}

/// Between two models. What is known so far is a matter of minutes and found anew at the next launch.
void stop_if_asked(Run& run, std::string const& name) {
  if (!run.should_stop()) return;
  throw Interrupted(
      fmt::format("stage 6 stopped ({}) after the model \"{}\"; the same command evaluates all of them again",
                  run.stop_reason(), name));
}

std::vector<double> to_double(std::vector<Index> const& counts) { return {counts.begin(), counts.end()}; }

std::vector<double> information(Evaluation const& e) {
  return mutual_information(to_double(experts_by_domain(e)), e.layers, static_cast<Index>(e.domains.size()),
                            e.expert_count);
}

std::vector<double> permuted_information(Evaluation const& e, std::uint64_t seed) {
  SampleExperts samples;
  samples.layers = e.layers;
  samples.domains = static_cast<Index>(e.domains.size());
  samples.experts = e.expert_count;
  samples.domain = e.domain;
  samples.experts_of = to_double(e.experts);
  return permuted_mutual_information(samples, kPermutations, seed);
}

json losses(Run& run, std::vector<Scored> const& scored) {
  json out = json::array();
  std::vector<std::string> headers = {"held-out loss (nats/token)"};
  for (auto const& domain : scored.front().evaluation.domains) headers.push_back(domain);
  headers.insert(headers.end(), {"all", "perplexity"});
  Table table(headers);
  for (auto const& s : scored) {
    std::vector<std::string> row = {s.name};
    json entry = {{"model", s.name}};
    for (auto const& part : loss_by_domain(s.evaluation)) {
      if (part.targets == 0) {
        row.push_back("-");
        continue;
      }
      row.push_back(fmt::format("{:.4f}", part.mean()));
      entry["domains"][part.name] = {
          {"loss", part.mean()}, {"samples", part.samples}, {"targets", part.targets}};
    }
    PartLoss const all = total_loss(s.evaluation);
    row.push_back(fmt::format("{:.4f}", all.mean()));
    row.push_back(fmt::format("{:.3f}", all.perplexity()));
    entry["loss"] = all.mean();
    table.row(row);
    out.push_back(entry);
  }
  run.console().say(table);
  return out;
}

json tokens_by_expert(Run& run, Evaluation const& e) {
  auto const counts = experts_by_domain(e);
  auto const domains = static_cast<Index>(e.domains.size());
  std::vector<std::string> headers = {"layer", "domain"};
  for (Index i = 0; i < e.expert_count; ++i) headers.push_back(fmt::format("e{}", i));
  Table table(headers);
  json out = json::array();
  // A deep model's table would fill screens: its first, middle and last layer are shown, the report has all.
  constexpr Index kShownRows = 24;
  bool const all_layers = e.layers * domains <= kShownRows;
  for (Index l = 0; l < e.layers; ++l) {
    bool const shown = all_layers || l == 0 || l == e.layers / 2 || l == e.layers - 1;
    for (Index d = 0; d < domains; ++d) {
      auto const row = counts.begin() + (l * domains + d) * e.expert_count;
      double total = 0.0;
      for (Index i = 0; i < e.expert_count; ++i) total += static_cast<double>(row[i]);
      if (total == 0.0) continue;  // a domain without held-out samples
      std::vector<std::string> cells = {fmt::format("{}", l), e.domains[static_cast<std::size_t>(d)]};
      json shares = json::array();
      for (Index i = 0; i < e.expert_count; ++i) {
        double const share = static_cast<double>(row[i]) / total;
        cells.push_back(fmt::format("{:.1f}", 100.0 * share));
        shares.push_back(share);
      }
      if (shown) table.row(cells);
      out.push_back({{"layer", l}, {"domain", e.domains[static_cast<std::size_t>(d)]}, {"share", shares}});
    }
  }
  run.console().say(table, "share of a domain's tokens that each expert gets, per cent");
  return out;
}

json information_table(Run& run, Evaluation const& trained, Evaluation const& random) {
  auto const found = information(trained), chance = information(random);
  auto const permuted = permuted_information(trained, run.seed());
  Table table({"layer", "trained router", "random router", "permuted domains"});
  json out = json::array();
  for (std::size_t l = 0; l < found.size(); ++l) {
    table.row({fmt::format("{}", l), fmt::format("{:.5f}", found[l]), fmt::format("{:.5f}", chance[l]),
               fmt::format("{:.5f}", permuted[l])});
    out.push_back(
        {{"layer", l}, {"trained", found[l]}, {"random_router", chance[l]}, {"permuted", permuted[l]}});
  }
  run.console().say(table, "mutual information of expert and domain (nats)");
  return out;
}

}  // namespace

void evaluate(Run& run, BaseModel const& base, ExpertSet const& checkpoints, MoeModel const& assembled,
              MoeModel const& trained) {
  Deck const& deck = run.deck();
  Stage stage(
      run, "evaluate",
      deck_table(deck, "evaluate") + fmt::format("[reads]\nheld_out = \"{:016x}\"\npost_train = \"{}\"\n",
                                                 run.data().held_out.hash(), trained.hash));
  if (stage.complete()) {
    run.console().say(fmt::format("everything is complete; see {}", run.path(stage.file("report.json"))));
    return;
  }
  stage.begin();
  // The last checkpoint is the dense instruction model, whether it became an expert or not.
  std::string const last = fmt::format("prepare/checkpoint_{:02}.h5", 2 * deck.prepare.checkpoints);
  std::vector<Scored> scored;
  auto const score = [&](std::string const& name, auto const& evaluation) {
    if (!scored.empty()) stop_if_asked(run, scored.back().name);
    scored.push_back({name, evaluation()});
  };
  score("base", [&] { return score_dense(run, base, ""); });
  score("last dense checkpoint", [&] { return score_dense(run, base, last); });
  score("MoE before post-training", [&] { return score_moe(run, assembled, false); });
  score("MoE", [&] { return score_moe(run, trained, false); });
  stop_if_asked(run, scored.back().name);
  Evaluation const random = score_moe(run, trained, true);
  json report;
  report["losses"] = losses(run, scored);
  report["tokens"] = tokens_by_expert(run, scored.back().evaluation);
  report["mutual_information"] = information_table(run, scored.back().evaluation, random);
  report["experts"] = checkpoints.files;
  report["model"] = trained.file;
  run.directory().write_text(stage.file("report.json"), report.dump(2) + "\n");
  stage.finish("report.json");
  run.console().say(
      fmt::format("model: {}\nreport: {}", run.path(trained.file), run.path(stage.file("report.json"))));
}

}  // namespace upit::upcycle
