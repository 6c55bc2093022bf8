// SPDX-License-Identifier: Apache-2.0
// Owns what the training stages have in common: options from the deck, trainers on a base, the loop's hooks.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "upit/train/loop.hpp"
#include "upit/upcycle/run.hpp"

namespace upit::upcycle {

/// train.precision.
Precision precision_of(Deck const& deck);

/// AdamW, clipping, seed, loss and precision of [train] and [data].
TrainerOptions trainer_options(Deck const& deck);

/// Loads the values of the base into weights laid out by `table`: the backbone, and the FFN where a single
/// FFN expert stands in its place. Collective.
void load_base(Run& run, BaseModel const& base, ParameterTable const& table,
               ModelWeights<float> const& weights);

/// The loop's hooks and settings for a stage of this run.
LoopHooks loop_hooks(Run& run, std::function<void(Index)> after_step = {});
LoopSettings loop_settings(Run& run, std::string const& stage, Index steps, Index first_sample,
                           ModelFileInfo const& info);

/// The deck tables that say what is trained on: every training stage depends on them.
std::string data_inputs(Run const& run);

/// [lora] without its form of mixing, which stages before the last do not know; nothing for FFN experts.
std::string lora_inputs(Deck const& deck);

/// The lines of a deck table without those of the keys named: what a stage does not depend on.
std::string without(std::string const& table, std::vector<std::string_view> const& keys);

/// Prints how a stage's training went.
void say_training(Run& run, std::string const& title, LoopReport const& report);

}  // namespace upit::upcycle
