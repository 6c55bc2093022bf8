// SPDX-License-Identifier: Apache-2.0
// Owns what an expansion asks of the pool of experts, whatever their kind: children and cosines.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/upcycle/expand.hpp"

namespace upit::upcycle {

/// Experts on disk, numbered in the order in which they came, and their inner products. All methods are
/// collective but `cosine`; errors are `AgreedError`.
class ExpertPool {
 public:
  virtual ~ExpertPool() = default;

  /// Adds the checkpoints; called once, first.
  virtual void add_checkpoints(std::vector<std::string> const& paths) = 0;
  /// Adds child `child.number`, the next one, at `path`. It is written, with `ancestry` in it, unless
  /// `there`: then the file is that child already. Returns its cosines with its parents had nothing been
  /// dropped.
  virtual ChildCosines add_child(Child const& child, std::string const& path, std::string const& ancestry,
                                 bool there) = 0;
  /// NaN if one of the two has no direction.
  virtual double cosine(Index i, Index j) const = 0;
};

/// The pool for the kind of expert that `info` describes. `start`: full path of the file with the values that
/// FFN experts started from. The communicator must outlive the pool.
std::unique_ptr<ExpertPool> make_pool(Communicator const& comm, ModelFileInfo const& info,
                                      ExpandOptions const& options, std::string const& start);

/// LoRA experts: the start is A0 and zero, computed; children merge A and B as they are stored.
std::unique_ptr<ExpertPool> make_lora_pool(Communicator const& comm, ModelFileInfo const& info,
                                           ExpandOptions const& options);

/// FFN experts: whole models, whose FFNs are merged and compared and whose backbones are averaged. A child
/// takes one pass: a piece of every expert and of the start is read, merged, written and compared while it is
/// in memory, the ranks on pieces of their own. Memory of a rank: `piece_elements` floats (or a row) of each
/// of `count` experts and the start, 256 MiB at most unless rows are longer than that.
std::unique_ptr<ExpertPool> make_ffn_pool(Communicator const& comm, ModelFileInfo const& info,
                                          ExpandOptions const& options, std::string const& start);

}  // namespace upit::upcycle
