// SPDX-License-Identifier: Apache-2.0
// Owns stage 2: from m checkpoints to n experts by merging pairs (UpIT, Algorithm 2).
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/train/model_file.hpp"
#include "upit/upcycle/family.hpp"
#include "upit/upcycle/run.hpp"
#include "upit/upcycle/similarity.hpp"

namespace upit::upcycle {

enum class Strategy { genetic, random, none };

/// "genetic" | "random" | "none"; throws `Error` for others.
Strategy parse_strategy(std::string_view text);

/// The backbone of a child of FFN experts: plain mean of its parents', or weighted as its FFNs are.
enum class Backbone { mean, weighted };

/// "mean" | "weighted"; throws `Error` for others.
Backbone parse_backbone(std::string_view text);
std::string backbone_name(Backbone backbone);

struct ExpandOptions {
  Strategy strategy = Strategy::genetic;
  Similarity similarity = Similarity::task_vector;
  Index count = 0;          // n
  double drop = 0.2;        // DARE's p
  bool reuse_pairs = true;  // false: a pair has one child at most
  Backbone backbone = Backbone::mean;
  std::uint64_t seed = 1;
  Index base_is = -1;                     // position of the base among the files, or -1: never a parent
  std::string start;                      // FFN experts: file with the values they started from, below root
  std::string reads;                      // identity of the files' contents; part of what a child remembers
  Index piece_elements = Index{1} << 18;  // of a tensor that a rank holds at a time; never less than a row
};

/// The stage: merges, writes expand/expert_NN.h5, expand/family.json and expand/similarity.csv, prints a
/// table. What is on disk from a stage that was stopped is kept. Throws `AgreedError`, `Interrupted`.
ExpertSet expand(Run& run, ExpertSet const& parents);

/// Grows the family. `files`: of kind "expert", relative to `root`, which holds a directory expand/; child
/// number i becomes expand/expert_<i>.h5, unless a file with the same ancestry is there. `info` describes all
/// of them, and the file of `options.start`: shapes and base must agree. `between` runs on every rank before
/// each child and may throw to stop. Collective; decisions and bits are the same on any number of ranks.
/// Throws `AgreedError` for m < 2 parents, files that do not fit together, an expert without a task vector
/// that would have to be compared.
Family grow_family(Communicator const& comm, std::string const& root, std::vector<std::string> const& files,
                   ModelFileInfo const& info, ExpandOptions const& options,
                   std::function<void(Index child)> const& between = {});

/// The parents of child `child`, first < second: the least similar pair of the pool [0, child), the lower one
/// of equals (genetic), or one drawn by (seed, child) (random). Never the base; without reuse no pair of
/// `used`. Throws `Error` unless two experts can be parents, or where a cosine is NaN.
std::pair<Index, Index> choose_pair(ExpandOptions const& options, Index child,
                                    std::function<double(Index, Index)> const& cosine,
                                    std::set<std::pair<Index, Index>> const& used);

/// Weight of a child's first parent: U(0, 1) by (seed, child).
double child_weight(std::uint64_t seed, Index child);

/// What a child descends from, as text: equal texts, equal bits. Stored in its file as `ancestry`.
std::string child_ancestry(ExpandOptions const& options, Child const& child, std::string const& first,
                           std::string const& second);

/// Writes a child of LoRA experts: for every tensor, A and B as they are stored, start + w DARE_p(first -
/// start) + (1 - w) DARE_p(second - start) with masks keyed by (seed, child, parent, tensor). `start`: A0 and
/// zero. Each rank merges its rows, in pieces of `piece_elements`: two parents and the child at a time. Whole
/// or absent.
void write_child(Communicator const& comm, std::string const& path, ModelFileInfo const& info,
                 ParameterTable const& table, View1<float> const& start, std::string const& first,
                 std::string const& second, Child const& child, ExpandOptions const& options,
                 std::string const& ancestry);

/// Stores a child's ancestry in its file.
void write_ancestry(H5File& file, std::string const& ancestry);

/// The ancestry stored in a child's file; nothing if there is no such file or it holds none.
std::optional<std::string> stored_ancestry(Communicator const& comm, std::string const& path);

}  // namespace upit::upcycle
