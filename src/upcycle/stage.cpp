// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/stage.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

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

}  // namespace

void redo_stages(Run& run, std::string const& first) {
  auto const from = std::find(kOrder.begin(), kOrder.end(), first);
  run.world().agree([&] {
    require(from != kOrder.end(),
            fmt::format("--redo {}: there is no such stage; stages are {}", first, fmt::join(kOrder, ", ")));
  });
  run.world().agree_on_root([&] {
    // The last stage first, and its record before anything else of it: a kill in between leaves no stage that
    // looks complete behind one that is gone.
    for (auto stage = kOrder.end(); stage != from;) {
      --stage;
      std::filesystem::path const directory = run.path(*stage);
      std::filesystem::remove(directory / "stage.txt");
      std::filesystem::remove_all(directory);
    }
    if (run.metrics() != nullptr) {
      run.metrics()->cut_back(
          [&](std::string_view s, Index) { return std::find(from, kOrder.end(), s) == kOrder.end(); });
    }
  });
}

Stage::Stage(Run& run, std::string name, std::string inputs)
    : run_(&run), name_(std::move(name)), inputs_(kFormatLine + std::move(inputs)) {
  if (run.options().rehearse > 0) inputs_ += fmt::format("rehearse = {}\n", run.options().rehearse);
  std::string const record = file("stage.txt");
  if (!run.directory().exists(record)) return;
  std::string const text = run.directory().read_text(record);
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
  // What lies there without a record is of no known run: nothing of it may be taken up.
  if (!begun_) run_->world().agree_on_root([&] { std::filesystem::remove_all(run_->path(name_)); });
  run_->directory().make_directory(name_);
  // Only now: a launch that is refused leaves the deck of the results beside them.
  run_->directory().write_text("deck.toml",
                               fmt::format("# upit {} ({}), {} ranks, stage {}\n{}", version(), git_hash(),
                                           run_->world().size(), name_, print_deck(run_->deck(), true)));
  if (!begun_) write(false, "");
  begun_ = true;
}

void Stage::finish(std::string const& summary) {
  write(true, summary);
  complete_ = true;
  clean();
}

void Stage::clean() const {
  run_->world().agree_on_root([&] {
    for (auto const& entry : std::filesystem::directory_iterator(run_->path(name_))) {
      std::string const file_name = entry.path().filename().string();
      if (file_name.starts_with("state-") || file_name == temporary_name(entry.path().stem().string())) {
        std::filesystem::remove(entry.path());
      }
    }
  });
}

std::string Stage::output_hash() const { return hash_text(name_ + "\n" + inputs_); }

void Stage::write(bool complete, std::string const& summary) {
  run_->directory().write_text(file("stage.txt"),
                               fmt::format("{}\n{}{}{}{}", complete ? "complete" : "begun", summary,
                                           summary.empty() ? "" : "\n", kInputsMark, inputs_));
}

}  // namespace upit::upcycle
