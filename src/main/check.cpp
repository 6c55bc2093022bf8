// SPDX-License-Identifier: Apache-2.0
// Owns what `upit check` prints.
#include <fmt/format.h>

#include <filesystem>

#include "commands.hpp"
#include "plan.hpp"
#include "upit/comm/rank_grid.hpp"
#include "upit/config/check.hpp"
#include "upit/config/printer.hpp"
#include "upit/io/files.hpp"

namespace upit {
namespace {

std::string or_dash(Index value, std::string text) { return value > 0 ? std::move(text) : "-"; }

Table stage_table(RunPlan const& plan) {
  Table table({"stage", "steps", "passes a step", "tokens a rank", "trained", "memory a rank", "sent a step",
               "files", "states"});
  for (auto const& s : plan.stages) {
    std::string const steps = s.runs > 1 ? fmt::format("{} x {}", s.runs, s.steps) : format_count(s.steps);
    table.row({s.name, or_dash(s.steps, steps), or_dash(s.passes, format_count(s.passes)),
               or_dash(s.tokens, format_count(s.tokens)), or_dash(s.trained, format_count(s.trained)),
               or_dash(s.memory, format_bytes(s.memory)), or_dash(s.sent, format_bytes(s.sent)),
               or_dash(s.files, format_bytes(s.files)), or_dash(s.temporary, format_bytes(s.temporary))});
  }
  return table;
}

/// Free space where the run directory is or will be.
Index free_for(std::string const& directory) {
  namespace fs = std::filesystem;
  fs::path path = fs::absolute(directory);
  while (!fs::exists(path) && path.has_relative_path()) path = path.parent_path();
  return free_space(path.string());
}

void say_plan(Deck const& deck, RunPlan const& plan, Index ranks, Console& console) {
  ModelConfig const& m = plan.model;
  console.say(
      fmt::format("base: {}; {} layers of width {}, {} heads with {} key-value heads, FFN {}, vocabulary {}, "
                  "context {}{}",
                  deck.model.base.empty() ? "pre-trained by this run" : deck.model.base, m.layers, m.width,
                  m.heads, m.kv_heads, m.ffn, m.vocabulary, m.context, m.tied ? ", head tied" : ""));
  console.say(fmt::format("parameters: backbone {}, {} experts of {}, routers {}; in all {}",
                          format_count(plan.backbone), deck.expert.count, format_count(plan.one_expert),
                          format_count(plan.routers),
                          format_count(plan.backbone + plan.experts + plan.routers)));
  console.say(fmt::format(
      "data: {} training and {} held-out samples of {} domains, on average {:.0f} bytes and {:.0f} "
      "tokens, longest {} tokens; {} truncated, {} dropped, {} duplicates left out",
      format_count(plan.training_samples), format_count(plan.held_out_samples), plan.domains.size(),
      plan.data.mean_bytes, plan.data.mean_tokens, plan.longest, plan.data.truncated, plan.data.dropped,
      plan.data.duplicates));
  console.say(
      fmt::format("rank grid: data {} x expert {}", ranks / deck.parallel.expert, deck.parallel.expert));
  console.say("");
  console.say(stage_table(plan));
  console.say(
      fmt::format("memory of a rank: at most {}, beside program and libraries", format_bytes(plan.memory())));
  Index const free = free_for(deck.run.directory);
  console.say(fmt::format("disk: {} at the fullest moment, {} free at {}", format_bytes(plan.disk()),
                          format_bytes(free), deck.run.directory));
  for (auto const& warnings : {deck_warnings(deck), plan.warnings}) {
    for (auto const& warning : warnings) console.say("warning: " + warning);
  }
  if (free < plan.disk()) console.say("warning: the disk is too small for this run");
}

}  // namespace

int check_deck(Deck const& deck, Index asked, std::string const& surroundings, Communicator const& world,
               Console& console) {
  // One rank alone that looks at a deck for groups plans for one group.
  Index const here = world.size() == 1 ? deck.parallel.expert : world.size();
  Index const ranks = asked > 0 ? asked : here;
  console.say(print_deck(deck, false));
  console.say(ranks == world.size()
                  ? surroundings
                  : fmt::format("planned for {} ranks; threads as here: {}", ranks, surroundings));
  check_rank_grid(ranks, deck.parallel.expert);
  world.agree_on_root([&] { say_plan(deck, make_plan(deck, ranks), ranks, console); });
  return 0;
}

}  // namespace upit
