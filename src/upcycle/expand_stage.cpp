// SPDX-License-Identifier: Apache-2.0
// Stage 2 of a run: from the deck to the family, and what a user reads of it (UpIT, Algorithm 2).
#include <fmt/format.h>

#include "upit/config/printer.hpp"
#include "upit/core/error.hpp"
#include "upit/upcycle/expand.hpp"
#include "upit/upcycle/stage.hpp"

namespace upit::upcycle {

ExpertSet expand(Run& run, ExpertSet const& parents) {
  Deck const& deck = run.deck();
  Stage stage(run, "expand",
              deck_table(deck, "expand") + deck_table(deck, "expert") +
                  fmt::format("[prepare]\nselect = \"{}\"\ninclude_base = {}\n[run]\nseed = {}\n[reads]\n"
                              "prepare = \"{}\"\n",
                              deck.prepare.select, deck.prepare.include_base, run.seed(), parents.hash));
  Index const m = static_cast<Index>(parents.files.size());
  ExpertSet set = parents;
  set.hash = stage.output_hash();
  for (Index i = m; i < deck.expert.count; ++i) {
    set.files.push_back(stage.file(fmt::format("expert_{:02}.h5", i)));
  }
  if (!parents.backbones.empty()) set.backbones = set.files;  // an FFN expert is a whole model
  if (stage.complete()) return set;

  ExpertConfig const expert = single_expert(deck, RouterUse::none);
  ModelFileInfo const info = run.file_info("expert", parents.base.model, expert, parents.base.hash, 0);
  ExpandOptions options;
  run.world().agree([&] {
    options.strategy = parse_strategy(deck.expand.strategy);
    options.similarity = parse_similarity(deck.expand.similarity);
    options.backbone = parse_backbone(deck.expand.backbone);
  });
  options.count = deck.expert.count;
  options.drop = deck.expand.dare_drop;
  options.reuse_pairs = deck.expand.reuse_pairs;
  options.seed = run.seed();
  options.base_is = parents.base_is;
  options.reads = parents.hash;
  bool const ffn = expert.kind == ExpertKind::ffn;
  if (ffn) options.start = "prepare/checkpoint_00.h5";

  Index const bytes = model_file_bytes(ParameterTable(info.model, info.expert), {ffn, true, false});
  run.directory().require_free_space(bytes * (options.count - m), "the merged experts");
  stage.begin();
  auto const between = [&](Index child) {
    if (run.should_stop()) {
      throw Interrupted(
          fmt::format("expand: stopped by {} before expert {} of {}; the same command goes on from there",
                      run.stop_reason(), child, options.count));
    }
  };
  Family const family =
      grow_family(run.world(), run.directory().path(), parents.files, info, options, between);
  expect(family.names == set.files, "expand: the files are those the stage promises");
  run.directory().write_text(stage.file("family.json"),
                             family_json(family, deck.expand.strategy, deck.expand.similarity, options.drop));
  run.directory().write_text(stage.file("similarity.csv"), similarity_csv(family));
  if (!family.children.empty()) {
    run.console().say(family_table(family),
                      fmt::format("expand: {} checkpoints, {} experts", m, options.count));
  }
  stage.finish(fmt::format("experts = {}\nchildren = {}", family.names.size(), family.children.size()));
  return set;
}

}  // namespace upit::upcycle
