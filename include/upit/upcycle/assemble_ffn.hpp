// SPDX-License-Identifier: Apache-2.0
// Owns how FFN experts on disk become one MoE model on disk, in bounded memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/train/model_file.hpp"

namespace upit::upcycle {

/// What an MoE model of FFN experts is put together from.
struct FfnStack {
  ModelFileInfo info;                    // of the MoE model
  std::vector<std::string> experts;      // (n) paths: FFN and, with `has_vectors`, routing vectors
  std::vector<std::string> backbones;    // (n) paths: embedding, attention, norms, head
  std::vector<double> backbone_weights;  // (n) of the mean of the backbones; they sum to 1
  bool has_vectors = false;              // false: routers as `initialise_router` draws them
  std::uint64_t seed = 1;                // of those
};

/// Weights of n expert models, the m checkpoints of stage 1 first, in the mean of backbones: "all" or
/// "checkpoints". Throws `Error` for other words.
std::vector<double> backbone_weights(std::string const& mode, Index n, Index m);

/// What those weights give each of the m checkpoints, children resolved into their ancestors' backbones.
/// `family`: the text of family.json; empty without children. `weighted`: expand.backbone = "weighted".
std::vector<double> checkpoint_weights(std::vector<double> const& weights, Index m, std::string const& family,
                                       bool weighted);

/// Writes the model: expert e is row e of every stacked tensor, backbones are averaged in fp64. Every rank
/// moves its rows, at most `piece_elements` (or one row) of a tensor at a time. Collective; whole or absent;
/// throws `AgreedError`.
void write_ffn_moe(Communicator const& world, std::string const& path, FfnStack const& stack,
                   Index piece_elements = Index{1} << 22);

}  // namespace upit::upcycle
