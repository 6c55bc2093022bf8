// SPDX-License-Identifier: Apache-2.0
// Owns what every stage of one run shares: deck, ranks, directory, data, console, metrics, reasons to stop.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "upit/comm/communicator.hpp"
#include "upit/comm/rank_grid.hpp"
#include "upit/config/deck.hpp"
#include "upit/core/console.hpp"
#include "upit/core/signals.hpp"
#include "upit/io/metrics.hpp"
#include "upit/io/run_directory.hpp"
#include "upit/model/ffn_experts.hpp"
#include "upit/text/dataset.hpp"
#include "upit/text/tokenizer.hpp"
#include "upit/train/model_file.hpp"

namespace upit::upcycle {

struct RunOptions {
  std::string redo;    // stage to start again, with all that follow; empty: none
  Index rehearse = 0;  // steps of each stage; 0: as the deck says
};

/// Collective over the world; errors are agreed.
class Run {
 public:
  /// Opens and locks the run directory, loads tokenizer and data.
  Run(Deck const& deck, Communicator const& world, Console& console, RunOptions const& options);

  Deck const& deck() const { return deck_; }
  Communicator const& world() const { return *world_; }
  Console& console() const { return *console_; }
  RunDirectory const& directory() const { return *directory_; }
  Tokenizer const& tokenizer() const { return *tokenizer_; }
  Dataset const& data() const { return data_; }
  RunOptions const& options() const { return options_; }
  /// Stage to start again, until it is reached; empty: none.
  std::string const& redo() const { return options_.redo; }
  void forget_redo() { options_.redo.clear(); }
  std::uint64_t seed() const { return deck_.run.seed; }
  /// How the MoE model's FFN experts are spread over the world.
  ExpertParallel parallel() const { return {&grid_, deck_.parallel.capacity, deck_.parallel.chunks}; }

  /// Full path of a file of the run.
  std::string path(std::string_view name) const { return directory_->path(name); }
  /// Rank 0 writes, others pass.
  void metric(std::string_view stage, Index step, std::initializer_list<MetricsFile::Cell> cells);
  MetricsFile* metrics() { return metrics_ ? &*metrics_ : nullptr; }  // null on other ranks
  /// True on all ranks once a signal has reached any of them or the time limit is near. Collective.
  /// `reserve`: seconds that a stop will take; at least five are kept.
  bool should_stop(double reserve = 0.0);
  /// The same for this rank alone, not collective: for groups of ranks that stop before the world meets. A
  /// reason once found stays, so that `should_stop` is then true on all ranks.
  bool has_reason_to_stop(double reserve = 0.0);
  /// Why `should_stop` said so.
  std::string stop_reason() const { return stop_reason_; }
  /// The description that files of this run carry.
  ModelFileInfo file_info(std::string kind, ModelConfig const& model, ExpertConfig const& expert,
                          std::string base_hash, Index step) const;
  /// Steps of a stage: `planned`, or fewer in a rehearsal.
  Index steps(Index planned) const;

 private:
  Deck deck_;
  Communicator const* world_;
  RankGrid grid_;
  Console* console_;
  RunOptions options_;
  std::unique_ptr<RunDirectory> directory_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string tokenizer_hash_;
  Dataset data_;
  std::optional<MetricsFile> metrics_;
  TimeLimit time_limit_;
  double reason_ = 0.0;  // of this rank: 0 none, 1 time limit, 2 signal
  std::string stop_reason_;
};

/// The dense model that the run starts from.
struct BaseModel {
  std::string path;  // Hugging Face directory or file of ours
  ModelConfig model;
  std::string hash;  // of its values: `backbone_hash`
};

/// Experts on disk: files of kind "expert" with E = 1 (tensors "layers.l.lora.*" or "layers.l.experts.*" of
/// extent (1, ...)), in the run directory. `base_is` is the position of the base itself among them
/// (prepare.include_base), or -1: never a parent.
struct ExpertSet {
  BaseModel base;
  std::vector<std::string> files;  // relative to the run directory, in order of the expert's number
  // FFN experts are whole models: where the backbone of each is. Stage 3 trains the FFNs and leaves it as it
  // is.
  std::vector<std::string> backbones;
  Index base_is = -1;
  std::string hash;  // of the stage that left them: what the next stage names as read
};

bool has_ffn_experts(Deck const& deck);
/// What stage 1 trains, and what its checkpoints hold.
Trained dense_trained(Deck const& deck);
Groups expert_groups(Deck const& deck);
/// What stage 5 trains.
Trained moe_trained(Deck const& deck);
/// Shapes of one expert under this deck: E = 1.
ExpertConfig single_expert(Deck const& deck, RouterUse router);
/// Shapes of the MoE model.
ExpertConfig moe_experts(Deck const& deck, Index count);

}  // namespace upit::upcycle
