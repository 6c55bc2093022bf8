// SPDX-License-Identifier: Apache-2.0
// Owns the ways a dense model comes in: a Hugging Face Llama directory or a file of ours.
#pragma once

#include <memory>
#include <string>

#include "upit/comm/communicator.hpp"
#include "upit/model/parameters.hpp"
#include "upit/train/model_file.hpp"

namespace upit {

/// A model ready to run: what `upit eval MODEL` and the stages start from.
struct LoadedModel {
  ModelFileInfo info;
  std::unique_ptr<ParameterTable> table;
  Weights<float> weights;
};

/// Shapes that config.json in `directory` gives; `context` cuts the model's own limit (0: keep it).
/// Throws `Error`.
ModelConfig huggingface_shapes(std::string const& directory, Index context);

/// Reads a Hugging Face Llama directory into fused tensors: q, k, v stacked; gate, up stacked. Every rank
/// reads. Throws `Error` naming file and tensor for missing ones and wrong shapes.
void load_huggingface(std::string const& directory, ParameterTable const& table, ModelConfig const& model,
                      ModelWeights<float> const& weights);

/// Whether rank 0 finds a directory there. Collective: all ranks then take the same way.
bool directory_on_root(std::string const& path, Communicator const& comm);

/// Loads a Hugging Face directory or a dense or MoE file of ours; an expert snapshot cannot run alone and is
/// refused. Collective; throws `AgreedError`.
LoadedModel load_model(std::string const& path, Communicator const& comm);

}  // namespace upit
