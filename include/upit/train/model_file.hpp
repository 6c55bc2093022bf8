// SPDX-License-Identifier: Apache-2.0
// Owns the files that hold models: dense models, expert snapshots, MoE models, restart states.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/comm/rank_grid.hpp"
#include "upit/io/hdf5.hpp"
#include "upit/model/model_weights.hpp"

namespace upit {

/// What a file of ours says about itself.
struct ModelFileInfo {
  static constexpr Index kFormat = 1;

  std::string kind;  // "dense", "expert" (trained tensors only), "moe", "state"
  ModelConfig model;
  ExpertConfig expert;
  std::string base_hash;       // of the backbone's values: an expert belongs to one base
  std::string tokenizer;       // "bytes" or the path of a tokenizer.model
  std::string tokenizer_hash;  // `tokenizer_hash` of it; empty: not known
  std::string prompt;          // prompt template
  std::string deck;            // resolved deck
  std::string program;         // git hash of the program that wrote it; filled when read
  Index step = 0;
};

/// Which tensors a file holds.
struct Groups {
  bool backbone = false, expert = false, router = false;
};

std::string model_json(ModelConfig const& model, ExpertConfig const& expert);
void parse_model_json(std::string const& text, ModelConfig& model, ExpertConfig& expert);

/// 32 hex digits over the values of the backbone. Equal on all ranks that hold equal weights.
std::string backbone_hash(ParameterTable const& table, Weights<float> const& weights);

/// Writes the description as attributes of "/"; the program named is this one. Collective.
void write_info(H5File& file, ModelFileInfo const& info);

/// Writes the tensors of `groups` under /backbone, /expert, /router, whole tensors by their names, and the
/// description as attributes of "/". Collective over `comm`; every rank holds all weights, or with `grid`,
/// whose world is `comm`, the experts of its table. Whole or absent.
void write_model_file(std::string const& path, Communicator const& comm, ModelFileInfo const& info,
                      ParameterTable const& table, Weights<float> const& weights, Groups groups,
                      RankGrid const* grid = nullptr);

/// The same from weights of either precision. What they hold only rounded is copied from the file `source`,
/// which has the tensors of `table`.
void write_model_file(std::string const& path, Communicator const& comm, ModelFileInfo const& info,
                      ParameterTable const& table, ModelWeights<float> const& weights, Groups groups,
                      RankGrid const* grid = nullptr, std::string const& source = "");

/// Reads the description. `comm` null: this rank alone. Throws `Error` naming the file if it is none of ours.
ModelFileInfo read_model_info(std::string const& path, Communicator const* comm);

/// Reads the tensors of `groups` into `weights`, each rank the rows that its table holds; names and shapes
/// must agree with `table`.
void read_model_file(std::string const& path, Communicator const* comm, ParameterTable const& table,
                     Weights<float> const& weights, Groups groups);

/// The same into every form in which `weights` hold the tensors.
void read_model_file(std::string const& path, Communicator const* comm, ParameterTable const& table,
                     ModelWeights<float> const& weights, Groups groups);

/// Writes trained tensors and moments, and the step they stand at: what a resumed stage starts from.
/// `window`: what its log has counted since its last row, equal on all ranks.
void write_state(std::string const& path, Communicator const& comm, ModelFileInfo const& info,
                 ParameterTable const& table, Weights<float> const& weights, View1<float> const& first_moment,
                 View1<float> const& second_moment, RankGrid const* grid = nullptr,
                 std::span<double const> window = {});

/// Reads them back; returns the step.
Index read_state(std::string const& path, Communicator const& comm, ParameterTable const& table,
                 Weights<float> const& weights, View1<float> const& first_moment,
                 View1<float> const& second_moment, std::vector<double>* window = nullptr);

/// Bytes that `write_state` will take on disk, attributes left out.
Index state_file_bytes(ParameterTable const& table);

/// Bytes that `write_model_file` will take on disk, whole tensors, attributes left out.
Index model_file_bytes(ParameterTable const& table, Groups groups);

}  // namespace upit
