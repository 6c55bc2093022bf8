// SPDX-License-Identifier: Apache-2.0
// Owns the record that a stage leaves on disk: what it was run with, whether it is complete.
#pragma once

#include <string>

#include "upit/upcycle/run.hpp"

namespace upit::upcycle {

/// Removes what stage `first` and all after it have left, in an order that a kill cannot turn into a run that
/// looks complete. Collective; throws `AgreedError` for a name that is no stage.
void redo_stages(Run& run, std::string const& first);

/// `<name>/stage.txt` in the run directory. `inputs` is text, one "key = value" a line: the deck tables that
/// the stage depends on and what it reads (the `output_hash` of the stage before it, hashes of files).
/// Construction throws `AgreedError` naming the changed keys if the stage was begun with other inputs.
class Stage {
 public:
  Stage(Run& run, std::string name, std::string inputs);

  std::string const& name() const { return name_; }
  /// Whether the stage ended here before: then it returns at once.
  bool complete() const { return complete_; }
  /// Whether it was begun before and not ended.
  bool begun() const { return begun_; }
  /// Creates the stage's directory, writes the resolved deck and records that the stage has begun.
  void begin();
  /// Records that it is complete, with `summary` (a few lines, kept for people), and removes restart states
  /// and what a killed launch left half written.
  void finish(std::string const& summary);
  /// Hash of the inputs: what the next stage names as read.
  std::string output_hash() const;
  /// File of this stage relative to the run directory.
  std::string file(std::string const& file_name) const { return name_ + "/" + file_name; }

 private:
  void write(bool complete, std::string const& summary);
  void clean() const;
  Run* run_;
  std::string name_, inputs_;
  bool complete_ = false, begun_ = false;
};

}  // namespace upit::upcycle
