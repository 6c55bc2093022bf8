// SPDX-License-Identifier: Apache-2.0
// Stage 4: upcycle. Experts are stacked, routing vectors concatenated, the backbone kept or averaged.
#include <fmt/format.h>

#include "upit/config/printer.hpp"
#include "upit/core/error.hpp"
#include "upit/upcycle/assemble_ffn.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/stages.hpp"
#include "upit/upcycle/training.hpp"

namespace upit::upcycle {
namespace {

/// Copies the one expert of `from` into row e of every stacked tensor of `to`.
void place_expert(ParameterTable const& single, Weights<float> const& from, ParameterTable const& stacked,
                  Weights<float> const& to, Index e, bool vectors) {
  for (auto const& t : single.tensors()) {
    bool const router = t.group == Group::router;
    if (t.group == Group::backbone || (router && !vectors)) continue;
    Tensor const& s = stacked.find(t.name);
    auto const& source = router ? from.router : from.expert;
    auto const& target = router ? to.router : to.expert;
    Kokkos::deep_copy(View1<float>(target.data() + s.offset + e * t.size(), t.size()),
                      View1<float>(source.data() + t.offset, t.size()));
  }
}

/// LoRA experts beside the base: small enough for every rank to hold all.
void write_lora_moe(Run& run, RoutedSet const& routed, ExpertConfig const& expert, std::string const& path) {
  ExpertSet const& set = routed.experts;
  auto const n = static_cast<Index>(set.files.size());
  ParameterTable const table(set.base.model, expert);
  Weights<float> const weights(table);
  load_base(run, set.base, table, weights);
  initialise_router(table, run.seed(), 0, weights);
  RouterUse const use = routed.has_vectors ? RouterUse::auxiliary : RouterUse::none;
  ParameterTable const single(set.base.model, single_expert(run.deck(), use));
  Weights<float> const one(single);
  for (Index e = 0; e < n; ++e) {
    read_model_file(run.path(set.files[static_cast<std::size_t>(e)]), &run.world(), single, one,
                    {false, true, routed.has_vectors});
    place_expert(single, one, table, weights, e, routed.has_vectors);
  }
  write_model_file(path, run.world(), run.file_info("moe", set.base.model, expert, set.base.hash, 0), table,
                   weights, {true, true, true});
}

/// Returns what the mean of backbones gives each checkpoint.
std::vector<double> write_ffn_moe(Run& run, RoutedSet const& routed, ExpertConfig const& expert,
                                  std::string const& path) {
  ExpertSet const& set = routed.experts;
  Index const m = run.deck().prepare.checkpoints, n = static_cast<Index>(set.files.size());
  FfnStack stack;
  stack.info = run.file_info("moe", set.base.model, expert, set.base.hash, 0);
  for (auto const& file : set.files) stack.experts.push_back(run.path(file));
  for (auto const& file : set.backbones) stack.backbones.push_back(run.path(file));
  stack.has_vectors = routed.has_vectors;
  stack.seed = run.seed();
  std::string const family = n > m ? run.directory().read_text("expand/family.json") : "";
  std::vector<double> shares;
  run.world().agree([&] {
    stack.backbone_weights = backbone_weights(run.deck().upcycle.backbone, n, m);
    shares = checkpoint_weights(stack.backbone_weights, m, family, run.deck().expand.backbone == "weighted");
  });
  write_ffn_moe(run.world(), path, stack);
  return shares;
}

}  // namespace

MoeModel assemble(Run& run, RoutedSet const& routed) {
  Deck const& deck = run.deck();
  ExpertSet const& set = routed.experts;
  auto const n = static_cast<Index>(set.files.size());
  ExpertConfig const expert = moe_experts(deck, n);
  Stage stage(run, "upcycle",
              deck_table(deck, "upcycle") +
                  (has_ffn_experts(deck) ? "" : fmt::format("[lora]\nmix = \"{}\"\n", deck.lora.mix)) +
                  fmt::format("[post_train]\ntop_k = {}\n[route]\ndata = \"{}\"\n[reads]\nexperts = \"{}\"\n",
                              expert.active, deck.route.data, set.hash));
  MoeModel const moe{set.base, stage.file("moe.h5"), n, stage.output_hash()};
  if (stage.complete()) return moe;
  run.world().agree([&] { check(set.base.model, expert); });
  stage.begin();
  ParameterTable const table(set.base.model, expert);
  run.directory().require_free_space(model_file_bytes(table, {true, true, true}), "the MoE model");
  std::vector<double> shares;
  if (has_ffn_experts(deck)) {
    shares = write_ffn_moe(run, routed, expert, run.path(moe.file));
  } else {
    write_lora_moe(run, routed, expert, run.path(moe.file));
  }
  std::string const summary = fmt::format(
      "{} experts, top-{}, {} router: {} parameters of which {} in experts and {} in routers", n,
      expert.active, routed.has_vectors ? "pre-optimised" : "random",
      format_count(table.count(Group::backbone) + table.count(Group::expert) + table.count(Group::router)),
      format_count(table.count(Group::expert)), format_count(table.count(Group::router)));
  Table parts({"part", "parameters", "from"});
  parts.row({"backbone", format_count(table.count(Group::backbone)),
             shares.empty() ? "the base" : "mean of the experts' backbones"});
  for (Index e = 0; e < n; ++e) {
    parts.row({fmt::format("expert {}", e), format_count(table.count(Group::expert) / n),
               set.files[static_cast<std::size_t>(e)]});
  }
  parts.row({"routers", format_count(table.count(Group::router)),
             routed.has_vectors ? "routing vectors" : "random"});
  run.console().say(parts, fmt::format("stage 4: top-{} of {} experts", expert.active, n));
  if (!shares.empty()) {
    run.console().say(fmt::format("backbone: mean of {} expert models; checkpoints count {:.3f}",
                                  deck.upcycle.backbone == "all" ? n : deck.prepare.checkpoints,
                                  fmt::join(shares, " ")));
  }
  stage.finish(summary);
  return moe;
}

}  // namespace upit::upcycle
