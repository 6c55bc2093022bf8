// SPDX-License-Identifier: Apache-2.0
// Owns the record that a stage leaves on disk: what it was run with, whether it is complete.
#pragma once

#include <string>

#include "upit/upcycle/run.hpp"

namespace upit::upcycle {

/// What is wrong with the run directory for this deck, before anything is done: a --redo of no stage, and
/// what others have put where the run writes, folders of stages and deck.toml. Collective; throws
/// `AgreedError`.
void check_run_directory(Run const& run);

/// `<name>/stage.txt` in the run directory. `inputs` is text, one "key = value" a line below "[table]" lines:
/// the deck tables that the stage depends on and what it reads (the `output_hash` of the stage before it,
/// hashes of files).
///
/// Construction throws `AgreedError` naming the changed keys if the stage was begun with other inputs, and
/// naming the folder if that holds files and no record of ours. With --redo of this stage, or of one before
/// it that this run has not, construction removes what it and all after it have left: by then the stages
/// before it are accepted. The last stage goes first, and every record before the rest of its folder, so that
/// no kill leaves a run that looks complete.
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
