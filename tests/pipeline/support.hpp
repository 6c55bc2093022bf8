// SPDX-License-Identifier: Apache-2.0
// Owns what the pipeline tests share: a tiny deck, launching the program on ranks, what an error must look
// like, and comparing run directories.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <set>

#include "support/process.hpp"
#include "upit/io/hdf5.hpp"

namespace upit::test {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kPatience = 120.0;  // seconds; a run takes two or three, so this long means a hang

/// Every stage with a few steps and a state every third; 2 checkpoints become 3 experts. Embedded data only.
inline constexpr char const* kTinyDeck = R"([run]
seed = 7
checkpoint_every = 3
log_every = 1

[model]
layers = 2
width = 32
heads = 2
kv_heads = 1
ffn = 48

[data]
samples = 132
held_out = 0.1
context = 128

[pretrain]
documents = 128
batch = 8

[train]
batch = 8
micro_batch = 8
learning_rate = 1e-3

[expert]
count = 3

[lora]
rank = 2
alpha = 4.0

[prepare]
epochs = 1.0
checkpoints = 2

[route]
seed_min = 36
epochs = 2.0
batch = 4

[post_train]
epochs = 1.0
top_k = 2
)";

/// A folder of one test with the tiny deck in it, removed at the end, and launches of the program from there.
class Workplace {
 public:
  Workplace() {
    std::string name = (fs::temp_directory_path() / "upit-pipeline-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no scratch directory");
    folder_ = name;
    write("deck.toml", kTinyDeck);
    fs::create_directory(folder_ / "launcher");
  }
  ~Workplace() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  Workplace(Workplace const&) = delete;
  Workplace& operator=(Workplace const&) = delete;

  std::string path(std::string const& name) const { return (folder_ / name).string(); }
  std::string write(std::string const& name, std::string_view bytes) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

  /// Starts `upit arguments...` on so many ranks, one thread each. `more` goes into the environment.
  std::unique_ptr<Process> start(int ranks, std::vector<std::string> const& arguments,
                                 std::map<std::string, std::string> const& more = {}) const {
    std::vector<std::string> command = {UPIT_MPIEXEC, "-n", std::to_string(ranks), UPIT_PROGRAM};
    command.insert(command.end(), arguments.begin(), arguments.end());
    std::map<std::string, std::string> variables = {
        {"OMPI_ALLOW_RUN_AS_ROOT", "1"},
        {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"},
        {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
        {"OMPI_MCA_hwloc_base_binding_policy", "none"},
        // What a killed job leaves behind goes with this folder.
        {"OMPI_MCA_orte_tmpdir_base", path("launcher")},
        {"OMPI_MCA_btl_vader_backing_directory", path("launcher")},
        {"OMPI_MCA_mpi_yield_when_idle", "1"},  // waiting ranks leave the cores to those that work
        // Two seconds less after each exit code other than 0.
        {"OMPI_MCA_odls_base_sigkill_timeout", "0"},
        {"OMP_NUM_THREADS", "1"},
        {"OMP_PROC_BIND", "false"}};
    for (auto const& [name, value] : more) variables[name] = value;
    return std::make_unique<Process>(command, clean_environment(variables), folder_.string(),
                                     "launch-" + std::to_string(launches_++));
  }
  Outcome launch(int ranks, std::vector<std::string> const& arguments, double limit = kPatience) const {
    Outcome outcome = start(ranks, arguments)->wait(limit);
    EXPECT_FALSE(outcome.timed_out) << "it hangs:\n" << outcome.all();
    return outcome;
  }

  /// Arguments of a run of the tiny deck in directory `run`.
  std::vector<std::string> deck(std::string const& run, std::vector<std::string> const& changes = {}) const {
    std::vector<std::string> arguments = {path("deck.toml"), "run.directory=" + path(run)};
    arguments.insert(arguments.end(), changes.begin(), changes.end());
    return arguments;
  }
  /// A run that must end well.
  void complete(int ranks, std::string const& run, std::vector<std::string> const& changes = {}) const {
    Outcome const outcome = launch(ranks, deck(run, changes));
    ASSERT_EQ(outcome.code, 0) << outcome.all();
    ASSERT_TRUE(fs::exists(path(run + "/evaluate/report.json"))) << outcome.all();
  }

 private:
  fs::path folder_;
  mutable int launches_ = 0;
};

inline std::vector<std::string> lines_of(std::string const& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// The processes of the program in a job.
inline std::vector<pid_t> ranks_of(Process const& job) {
  std::string const program = fs::canonical(UPIT_PROGRAM).string();
  std::vector<pid_t> ranks = job.descendants();
  std::erase_if(ranks, [&](pid_t one) {
    std::error_code ignored;
    return fs::read_symlink("/proc/" + std::to_string(one) + "/exe", ignored).string() != program;
  });
  return ranks;
}

inline void expect_no_backtrace(Outcome const& outcome) {
  for (char const* sign : {"terminate called", "Process received signal", "Traceback", "[ 0]", "#0 ",
                           "what():", "Segmentation", "HDF5-DIAG", "Kokkos::Impl::", "MPI_ERR"}) {
    EXPECT_THAT(outcome.out + outcome.err, Not(HasSubstr(sign)));
  }
}

/// Lines that begin with "upit: error:". What mpirun says itself does not count.
inline std::vector<std::string> error_lines(Outcome const& outcome) {
  std::vector<std::string> errors;
  for (auto const& line : lines_of(outcome.err)) {
    if (line.starts_with("upit: error:")) errors.push_back(line);
  }
  return errors;
}

/// Exit code 1, one line of error that holds every part, no backtrace, nothing of ours beside it.
inline void expect_one_error(Outcome const& outcome, std::vector<std::string> const& parts) {
  SCOPED_TRACE(outcome.all());
  EXPECT_FALSE(outcome.timed_out);
  EXPECT_EQ(outcome.code, 1);
  auto const errors = error_lines(outcome);
  ASSERT_EQ(errors.size(), 1U);
  for (auto const& part : parts) EXPECT_THAT(errors[0], HasSubstr(part));
  EXPECT_THAT(outcome.out, Not(HasSubstr("error:")));
  expect_no_backtrace(outcome);
}

inline bool is_begun(std::string const& run, std::string const& stage) {
  return read_all_text(run + "/" + stage + "/stage.txt").starts_with("begun");
}
inline bool is_complete(std::string const& run, std::string const& stage) {
  return read_all_text(run + "/" + stage + "/stage.txt").starts_with("complete");
}

/// The steps of the restart states of a stage, rising.
inline std::vector<Index> state_steps(std::string const& run, std::string const& stage) {
  std::vector<Index> steps;
  std::error_code ignored;
  for (auto const& entry : fs::directory_iterator(run + "/" + stage, ignored)) {
    std::string const name = entry.path().filename().string();
    if (name.starts_with("state-") && name.ends_with(".h5")) steps.push_back(std::stoll(name.substr(6)));
  }
  std::ranges::sort(steps);
  return steps;
}

/// Rows of metrics.csv below its header, cells by column.
inline std::vector<std::map<std::string, std::string>> metrics_of(std::string const& run) {
  auto const split = [](std::string const& line) {
    std::vector<std::string> cells(1);
    for (char const c : line) {
      if (c == ',')
        cells.emplace_back();
      else
        cells.back() += c;
    }
    return cells;
  };
  std::vector<std::map<std::string, std::string>> rows;
  auto const lines = lines_of(read_all_text(run + "/metrics.csv"));
  if (lines.empty()) return rows;
  auto const names = split(lines[0]);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    auto const cells = split(lines[i]);
    if (cells.size() != names.size()) {
      ADD_FAILURE() << run << "/metrics.csv: a broken row: " << lines[i];
      continue;
    }
    for (std::size_t c = 0; c < cells.size(); ++c) {
      if (c == 0) rows.emplace_back();
      rows.back()[names[c]] = cells[c];
    }
  }
  return rows;
}

inline void expect_no_row_twice(std::string const& run) {
  std::set<std::string> seen;
  for (auto const& row : metrics_of(run)) {
    EXPECT_TRUE(seen.insert(row.at("stage") + " " + row.at("step")).second)
        << run << "/metrics.csv has stage " << row.at("stage") << ", step " << row.at("step") << " twice";
  }
  EXPECT_FALSE(seen.empty());
}

/// What metrics.csv says beside times: the whole story of a training, row by row.
inline std::vector<std::string> story_of(std::string const& run) {
  std::vector<std::string> story;
  for (auto row : metrics_of(run)) {
    row.erase("seconds");
    row.erase("tokens_per_second");
    row.erase("exchange_seconds");
    row.erase("exchange_share");
    std::string text;
    for (auto const& [name, cell] : row) text += name + "=" + cell + " ";
    story.push_back(text);
  }
  return story;
}

inline void list_datasets(H5File const& file, std::string const& group, std::vector<std::string>& found) {
  for (auto const& name : file.names(group)) {
    std::string const path = group == "/" ? name : group + "/" + name;
    if (file.is_dataset(path))
      found.push_back(path);
    else
      list_datasets(file, path, found);
  }
}

template <class T>
bool same_bits(H5File const& a, H5File const& b, std::string const& name) {
  auto const x = a.read_all<T>(name), y = b.read_all<T>(name);
  return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
}

/// What differs between the datasets of two files, bit for bit; empty: nothing.
inline std::vector<std::string> differences(std::string const& first, std::string const& second) {
  H5File a = H5File::open(first, nullptr), b = H5File::open(second, nullptr);
  std::vector<std::string> names, others, different;
  list_datasets(a, "/", names);
  list_datasets(b, "/", others);
  if (names != others || names.empty()) different.emplace_back("the names");
  for (auto const& name : names) {
    if (!b.exists(name)) continue;
    std::string const type = a.type(name);
    bool const known = type == "float32" || type == "float64";
    if (!known || b.type(name) != type || a.shape(name) != b.shape(name) ||
        !(type == "float32" ? same_bits<float>(a, b, name) : same_bits<double>(a, b, name))) {
      different.push_back(name);
    }
  }
  a.close();
  b.close();
  return different;
}

inline bool same_tensors(std::string const& first, std::string const& second) {
  return differences(first, second).empty();
}
inline void expect_same_tensors(std::string const& first, std::string const& second) {
  ASSERT_TRUE(fs::exists(first)) << first;
  ASSERT_TRUE(fs::exists(second)) << second;
  EXPECT_THAT(differences(first, second), ::testing::IsEmpty()) << first << " and " << second;
}

/// Files below a run directory, relative, sorted, without those of the running job.
inline std::vector<std::string> files_of(std::string const& run) {
  std::vector<std::string> names;
  for (auto const& entry : fs::recursive_directory_iterator(run)) {
    if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), run).string());
  }
  std::erase(names, "upit.lock");
  std::ranges::sort(names);
  return names;
}

/// Everything two complete runs left is the same bit for bit, times aside.
inline void expect_same_run(std::string const& first, std::string const& second) {
  SCOPED_TRACE(first + " and " + second);
  auto const names = files_of(first), others = files_of(second);
  EXPECT_TRUE(names == others) << ::testing::PrintToString(names) << "\n" << ::testing::PrintToString(others);
  EXPECT_TRUE(story_of(first) == story_of(second)) << read_all_text(first + "/metrics.csv") << "\n"
                                                   << read_all_text(second + "/metrics.csv");
  for (auto const& name : names) {
    std::string const a = first + "/" + name, b = second + "/" + name;
    if (!fs::exists(b)) continue;  // told above
    if (name.ends_with(".h5"))
      expect_same_tensors(a, b);
    else if (name != "metrics.csv" && name != "deck.toml") {
      EXPECT_EQ(read_all_text(a), read_all_text(b)) << name << " differs";
    }
  }
}

}  // namespace upit::test
