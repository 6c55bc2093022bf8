// SPDX-License-Identifier: Apache-2.0
#include "upit/io/metrics.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iterator>
#include <optional>

#include "upit/core/error.hpp"

namespace upit {

namespace {

struct RowKey {
  std::string_view stage;
  Index step;
};

std::optional<RowKey> key_of(std::string_view row) {
  auto const first = row.find(',');
  if (first == std::string_view::npos) return std::nullopt;
  std::string_view const rest = row.substr(first + 1);
  Index step = 0;
  auto const [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), step);
  if (error != std::errc() || (end != rest.data() + rest.size() && *end != ',')) return std::nullopt;
  return RowKey{row.substr(0, first), step};
}

}  // namespace

MetricsFile::MetricsFile(std::string path, std::vector<std::string> columns)
    : path_(std::move(path)), columns_(std::move(columns)), header_("stage,step") {
  for (std::string const& column : columns_) {
    expect(!column.empty() && column.find_first_of(",\"\r\n") == std::string::npos,
           "metrics: bad column name");
    header_ += "," + column;
  }
  std::error_code error;
  bool const there = std::filesystem::exists(path_, error);
  require(!error, fmt::format("{}: cannot look at it: {}", path_, error.message()));
  if (there) {
    // Drops the row that a kill cut in two.
    cut_back([](std::string_view, Index) { return true; });
  } else {
    write_text_file(path_, header_ + "\n");
    reopen();
  }
}

void MetricsFile::reopen() { file_ = FileDescriptor(path_, O_WRONLY | O_APPEND); }

void MetricsFile::append(std::string_view stage, Index step, std::span<Cell const> cells) {
  expect(!stage.empty() && stage.find_first_of(",\"\r\n") == std::string_view::npos,
         "metrics: bad stage name");
  std::string row = fmt::format("{},{}", stage, step);
  std::size_t used = 0;
  for (std::string const& column : columns_) {
    row += ',';
    auto const at =
        std::find_if(cells.begin(), cells.end(), [&](Cell const& c) { return c.first == column; });
    if (at == cells.end()) continue;
    row += fmt::format("{}", at->second);
    ++used;
  }
  expect(used == cells.size(), "metrics: a cell names no column, or two name one");
  row += '\n';
  write_all(file_, row, path_);
}

std::vector<std::string> MetricsFile::rows() const {
  std::string const text = read_text_file(path_);
  std::vector<std::string> lines;
  for (std::size_t begin = 0;;) {
    auto const end = text.find('\n', begin);
    if (end == std::string::npos) break;  // what follows was never finished
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  require(!lines.empty() && lines.front() == header_,
          fmt::format(
              "{}: the header is \"{}\", \"{}\" is wanted; move the file away or use another run directory",
              path_, lines.empty() ? "" : lines.front(), header_));
  lines.erase(lines.begin());
  auto const commas = std::count(header_.begin(), header_.end(), ',');
  for (std::size_t i = 0; i < lines.size(); ++i) {
    require(key_of(lines[i]).has_value() && std::count(lines[i].begin(), lines[i].end(), ',') == commas,
            fmt::format("{}:{}: not a row of stage, step and {} columns", path_, i + 2, columns_.size()));
  }
  return lines;
}

void MetricsFile::cut_back(std::function<bool(std::string_view stage, Index step)> const& keep) {
  std::vector<std::string> kept = rows();
  std::erase_if(kept, [&](std::string const& row) {
    RowKey const key = *key_of(row);
    return !keep(key.stage, key.step);
  });
  replace(kept);
}

void MetricsFile::replace(std::vector<std::string> const& rows) {
  std::string text = header_ + "\n";
  for (std::string const& row : rows) text += row + "\n";
  write_text_file(path_, text);
  reopen();
}

void MetricsFile::sort(std::string_view stage) {
  std::vector<std::string> all = rows(), own;
  auto const is_own = [&](std::string const& row) { return key_of(row)->stage == stage; };
  std::copy_if(all.begin(), all.end(), std::back_inserter(own), is_own);
  auto const earlier = [](std::string const& a, std::string const& b) {
    return key_of(a)->step < key_of(b)->step;
  };
  if (std::is_sorted(own.begin(), own.end(), earlier)) return;
  std::stable_sort(own.begin(), own.end(), earlier);
  auto next = own.begin();
  for (std::string& row : all) {
    if (is_own(row)) row = *next++;
  }
  replace(all);
}

void MetricsFile::cut_back(std::string_view stage, Index step) {
  auto const own = [&](std::string_view name) {
    return name == stage || (name.starts_with(stage) && name[stage.size()] == '.');
  };
  std::vector<std::string> earlier;
  for (std::string const& row : rows()) {
    std::string_view const name = key_of(row)->stage;
    if (own(name)) break;
    if (std::find(earlier.begin(), earlier.end(), name) == earlier.end()) earlier.emplace_back(name);
  }
  cut_back([&](std::string_view name, Index at) {
    if (own(name)) return at <= step;
    return std::find(earlier.begin(), earlier.end(), name) != earlier.end();
  });
}

}  // namespace upit
