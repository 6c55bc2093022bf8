// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/stage.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "upit/config/printer.hpp"
#include "upit/io/files.hpp"
#include "upit/io/hash.hpp"

namespace upit::upcycle {
namespace {

constexpr std::array<std::string_view, 7> kOrder = {"pretrain", "prepare",    "expand",  "route",
                                                    "upcycle",  "post_train", "evaluate"};
constexpr char const* kFormatLine = "format = 1\n";
constexpr std::string_view kInputsMark = "[inputs]\n";

std::size_t place(std::string_view stage) {
  return static_cast<std::size_t>(std::find(kOrder.begin(), kOrder.end(), stage) - kOrder.begin());
}

}  // namespace

Stage::Stage(Run& run, std::string name, std::string inputs)
    : run_(&run), name_(std::move(name)), inputs_(kFormatLine + std::move(inputs)) {
  if (run.options().rehearse > 0) inputs_ += fmt::format("rehearse = {}\n", run.options().rehearse);
  std::string const& redo = run.options().redo;
  if (!redo.empty()) {
    run.world().agree([&] {
      require(place(redo) < kOrder.size(), fmt::format("--redo {}: there is no such stage; stages are {}", redo,
                                                       fmt::join(kOrder, ", ")));
    });
    if (place(name_) >= place(redo)) {
      run.world().agree_on_root([&] { std::filesystem::remove_all(run.path(name_)); });
      if (run.metrics() != nullptr) run.metrics()->cut_back([&](std::string_view s, Index) { return s != name_; });
      return;
    }
  }
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
    fail(fmt::format("stage {} in {} was run with other settings ({}); go on with the old ones, or start it again "
                     "with --redo {}",
                     name_, run.directory().path(), changed.empty() ? "their order" : fmt::format("{}", fmt::join(changed, "; ")),
                     name_));
  });
}

void Stage::begin() {
  run_->directory().make_directory(name_);
  // Only now: a launch that is refused leaves the deck of the results beside them.
  run_->directory().write_text("deck.toml", print_deck(run_->deck(), true));
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
  run_->directory().write_text(file("stage.txt"), fmt::format("{}\n{}{}{}{}", complete ? "complete" : "begun",
                                                             summary, summary.empty() ? "" : "\n", kInputsMark,
                                                             inputs_));
}

}  // namespace upit::upcycle
