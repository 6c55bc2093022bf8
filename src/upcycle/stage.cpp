// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/stage.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <vector>

#include "upit/config/printer.hpp"
#include "upit/core/version.hpp"
#include "upit/io/files.hpp"
#include "upit/io/hash.hpp"

namespace upit::upcycle {
namespace {

constexpr std::array<std::string_view, 7> kOrder = {"pretrain", "prepare",    "expand",  "route",
                                                    "upcycle",  "post_train", "evaluate"};
constexpr char const* kFormatLine = "format = 1\n";
constexpr std::string_view kInputsMark = "[inputs]\n";
constexpr char const* kRecord = "stage.txt";
/// Instead of "begun" or "complete": a folder that is being emptied. Whatever still lies there is of no use.
constexpr std::string_view kRemoved = "removed\n";
constexpr std::string_view kDeckMark = "# upit ";

namespace fs = std::filesystem;

std::ptrdiff_t place_of(std::string_view stage) {
  return std::find(kOrder.begin(), kOrder.end(), stage) - kOrder.begin();
}

/// Rank 0 only. The record of a stage; empty if there is none.
std::string record_of(fs::path const& folder) {
  if (!fs::exists(folder / kRecord)) return "";
  std::string const text = read_text_file((folder / kRecord).string());
  bool const ours = text.starts_with("begun\n") || text.starts_with("complete\n") || text == kRemoved;
  return ours ? text : "";
}

/// Rank 0 only. A folder with files in it and no record was filled by somebody else. A kill can leave a
/// folder of ours without a record only while it is empty, or holds the record half written.
void require_ours(fs::path const& folder) {
  if (!fs::exists(folder) || !record_of(folder).empty()) return;
  require(fs::is_directory(folder),
          fmt::format("{} is no folder; the run wants to write there: move it away, or choose another "
                      "run.directory",
                      folder.string()));
  for (auto const& entry : fs::directory_iterator(folder)) {
    require(
        entry.path().filename() == temporary_name(kRecord),
        fmt::format("{} holds {} and no record (stage.txt) of a stage of upit, so this run will not touch "
                    "it: move the folder away, or choose another run.directory",
                    folder.string(), entry.path().filename().string()));
  }
}

/// Rank 0 only. Empties a folder of ours, its record last.
void remove_content(fs::path const& folder) {
  write_text_file((folder / kRecord).string(), kRemoved);
  for (auto const& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != kRecord) fs::remove_all(entry.path());
  }
  fs::remove(folder / kRecord);
}

/// Stage `first` and all after it.
void remove_stages(Run& run, std::ptrdiff_t first) {
  std::vector<std::string_view> removed;
  run.world().agree_on_root([&] {
    for (std::size_t i = kOrder.size(); i > static_cast<std::size_t>(first); --i) {
      require_ours(run.path(kOrder[i - 1]));
    }
    for (std::size_t i = kOrder.size(); i > static_cast<std::size_t>(first); --i) {
      fs::path const folder = run.path(kOrder[i - 1]);
      if (!fs::exists(folder)) continue;
      remove_content(folder);
      fs::remove(folder);
      removed.insert(removed.begin(), kOrder[i - 1]);
    }
    if (run.metrics() != nullptr) {
      run.metrics()->cut_back(
          [&](std::string_view stage, Index) { return place_of(stage.substr(0, stage.find('.'))) < first; });
    }
  });
  if (removed.empty() || run.options().rehearse > 0) return;
  run.console().say(
      fmt::format("removed: {}; to go on after an interruption, give the command without --redo",
                  fmt::join(removed, ", ")));
}

}  // namespace

void check_run_directory(Run const& run) {
  Deck const& deck = run.deck();
  std::string const& redo = run.redo();
  run.world().agree([&] {
    require(redo.empty() || std::find(kOrder.begin(), kOrder.end(), redo) != kOrder.end(),
            fmt::format("--redo {}: there is no such stage; stages are {}", redo, fmt::join(kOrder, ", ")));
  });
  run.world().agree_on_root([&] {
    for (std::string_view const stage : kOrder) {
      bool const left_out = (stage == "pretrain" && !deck.model.base.empty()) ||
                            (stage == "route" && deck.route.data == "none");
      if (!left_out) require_ours(run.path(stage));
    }
    std::string const before = run.path("deck.toml");
    require(
        !fs::exists(before) || read_text_file(before).starts_with(kDeckMark),
        fmt::format("{} was not written by a run, which would replace it: move it away, or choose another "
                    "run.directory",
                    before));
  });
}

Stage::Stage(Run& run, std::string name, std::string inputs)
    : run_(&run), name_(std::move(name)), inputs_(kFormatLine + std::move(inputs)) {
  if (run.options().rehearse > 0) inputs_ += fmt::format("[rehearse]\nsteps = {}\n", run.options().rehearse);
  if (!run.redo().empty() && place_of(run.redo()) <= place_of(name_)) {
    remove_stages(run, place_of(run.redo()));
    run.forget_redo();
  }
  std::string text;
  run.world().agree_on_root([&] {
    fs::path const folder = run.path(name_);
    require_ours(folder);
    text = record_of(folder);
  });
  run.world().broadcast(text);
  if (text.empty() || text == kRemoved) return;
  std::size_t const mark = text.find(kInputsMark);
  std::string const before = mark == std::string::npos ? "" : text.substr(mark + kInputsMark.size());
  begun_ = true;
  complete_ = text.starts_with("complete");
  // A kill may have fallen between the end of the stage and its cleaning.
  if (complete_) clean();
  run.world().agree([&] {
    if (before == inputs_) return;
    auto const changed = changed_keys(before, inputs_);
    fail(fmt::format(
        "stage {} in {} was run with other settings ({}); go on with the old ones, or start it again "
        "with --redo {}",
        name_, run.directory().path(),
        changed.empty() ? "their order" : fmt::format("{}", fmt::join(changed, "; ")), name_));
  });
}

void Stage::begin() {
  run_->directory().make_directory(name_);
  if (!begun_) {
    run_->world().agree_on_root([&] {
      fs::path const folder = run_->path(name_);
      if (!fs::is_empty(folder)) remove_content(folder);  // what a kill has left of a --redo
    });
    write(false, "");
  }
  begun_ = true;
  // Only now: a launch that is refused leaves the deck of the results beside them.
  run_->directory().write_text(
      "deck.toml", fmt::format("{}{} ({}), {} ranks, stage {}\n{}", kDeckMark, version(), git_hash(),
                               run_->world().size(), name_, print_deck(run_->deck(), true)));
}

void Stage::finish(std::string const& summary) {
  write(true, summary);
  complete_ = true;
  clean();
}

void Stage::clean() const {
  run_->world().agree_on_root([&] {
    for (auto const& entry : fs::directory_iterator(run_->path(name_))) {
      std::string const file_name = entry.path().filename().string();
      if (file_name.starts_with("state-") || file_name == temporary_name(entry.path().stem().string())) {
        fs::remove(entry.path());
      }
    }
  });
}

std::string Stage::output_hash() const { return hash_text(name_ + "\n" + inputs_); }

void Stage::write(bool complete, std::string const& summary) {
  run_->directory().write_text(file(kRecord),
                               fmt::format("{}\n{}{}{}{}", complete ? "complete" : "begun", summary,
                                           summary.empty() ? "" : "\n", kInputsMark, inputs_));
}

}  // namespace upit::upcycle
