// SPDX-License-Identifier: Apache-2.0
// Owns what a deck will take, found without training: shapes, steps, memory, messages, files.
#pragma once

#include <string>
#include <vector>

#include "upit/config/deck.hpp"
#include "upit/model/config.hpp"
#include "upit/text/dataset.hpp"

namespace upit {

/// One stage. Bytes are those of the fullest rank, or of all files together. 0 where there is nothing.
struct StagePlan {
  std::string name;
  Index runs = 1;       // trainings after or beside each other: experts in stage 3
  Index steps = 0;      // of each
  Index passes = 0;     // micro-steps a step
  Index tokens = 0;     // most tokens of one rank in one pass
  Index trained = 0;    // parameters
  Index memory = 0;     // weights, gradients, moments, workspace and scratch of a rank
  Index sent = 0;       // of a rank in a step, at least: a ring of all ranks
  Index files = 0;      // that stay
  Index temporary = 0;  // restart states, while the stage runs
};

struct RunPlan {
  ModelConfig model;
  Index backbone = 0, one_expert = 0, experts = 0, routers = 0;  // parameters
  Index training_samples = 0, held_out_samples = 0, longest = 0, text_bytes = 0;
  std::vector<std::string> domains;
  DataReport data;
  std::vector<StagePlan> stages;
  std::vector<std::string> warnings;

  Index memory() const;  // of the stage that needs most
  Index disk() const;    // at the fullest moment
};

/// Reads tokenizer, data and the base's shapes. `ranks` share the work. Throws `Error` as the stages would:
/// missing files, vocabularies and contexts that do not fit, too few steps for the checkpoints.
RunPlan make_plan(Deck const& deck, Index ranks);

}  // namespace upit
