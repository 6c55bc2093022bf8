// SPDX-License-Identifier: Apache-2.0
// Owns the stages' signatures: files in, files out. Each returns at once if it is complete on disk.
#pragma once

#include "upit/upcycle/route.hpp"
#include "upit/upcycle/run.hpp"

namespace upit::upcycle {

/// An MoE model on disk: a file of kind "moe" that stands alone (backbone, experts, routers).
struct MoeModel {
  BaseModel base;
  std::string file;  // relative to the run directory
  Index experts = 0;
  std::string hash;
};

/// The dense base: the one that model.base names, or a small one pre-trained here on generated documents.
BaseModel pretrain(Run& run);

/// Instruction-tunes the base, by LoRA or in full, and keeps m of 2m evenly spaced checkpoints as experts.
ExpertSet prepare(Run& run, BaseModel const& base);

/// Stacks the experts as they are after stage 3 and concatenates their routing vectors (random ones where
/// there are none); the backbone stays.
MoeModel assemble(Run& run, RoutedSet const& routed);

/// Trains experts and router with the load-balancing loss; epochs go on counting from the end of `prepare`.
MoeModel post_train(Run& run, MoeModel const& assembled);

/// Held-out loss by domain of base, last dense checkpoint and MoE; tokens per expert by domain and layer;
/// mutual information of expert and domain. Writes evaluate/report.json and prints the tables.
void evaluate(Run& run, BaseModel const& base, ExpertSet const& checkpoints, MoeModel const& assembled,
              MoeModel const& trained);

}  // namespace upit::upcycle
