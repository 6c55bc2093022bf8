// SPDX-License-Identifier: Apache-2.0
// Owns checks of the sources themselves: who includes whom, where MPI is named, labels of kernels, first
// lines.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "sources.hpp"

namespace upit::test {
namespace {

/// What each room may include, beside itself: docs/style.md and CMakeLists.txt.
std::map<std::string, std::set<std::string>> const& rooms_below() {
  static std::map<std::string, std::set<std::string>> const below = {
      {"core", {}},
      {"comm", {"core"}},
      {"config", {"core", "comm"}},
      {"io", {"core", "comm"}},
      {"text", {"core", "io", "config"}},
      {"linalg", {"core"}},
      {"kernels", {"core"}},
      {"model", {"core", "comm", "kernels", "linalg"}},
      {"train", {"core", "comm", "io", "text", "kernels", "linalg", "model", "config"}},
      {"upcycle", {"core", "comm", "io", "text", "kernels", "linalg", "model", "config", "train"}},
      {"main", {"core", "comm", "io", "text", "kernels", "linalg", "model", "config", "train", "upcycle"}},
  };
  return below;
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Places in `code` where `word` begins and no longer identifier holds it; `prefix`: more may follow.
std::vector<std::size_t> places(std::string const& code, std::string const& word, bool prefix = false) {
  std::vector<std::size_t> found;
  for (auto at = code.find(word); at != std::string::npos; at = code.find(word, at + 1)) {
    char const after = at + word.size() < code.size() ? code[at + word.size()] : ' ';
    if ((at == 0 || !is_word(code[at - 1])) && (prefix || !is_word(after))) found.push_back(at);
  }
  return found;
}

TEST(Hygiene, TheScannerSeesTheProject) {
  EXPECT_GT(sources().size(), 100u);
  std::set<std::string> rooms;
  for (auto const& s : sources()) rooms.insert(s.room);
  for (auto const& [room, below] : rooms_below()) {
    EXPECT_TRUE(rooms.count(room)) << room;
  }
  EXPECT_EQ(without_comments("a /* \"b */ \"//c\" // d'\n'\"' e"), "a          \"//c\"      \n'\"' e");
  EXPECT_EQ(places("MPI_Init; xMPI_A MPI_", "MPI_", true), (std::vector<std::size_t>{0, 17}));
}

TEST(Hygiene, IncludesGoDownTheHouse) {
  for (auto const& s : sources()) {
    ASSERT_TRUE(rooms_below().count(s.room)) << s.path << " lies in no room of the house";
    auto const& below = rooms_below().at(s.room);
    for (auto const& include : s.includes) {
      if (include.front() != '"') continue;
      std::string const name = include.substr(1, include.size() - 2);
      if (name.starts_with("upit/")) {
        std::string const room = name.substr(5, name.find('/', 5) - 5);
        EXPECT_TRUE(room == s.room || below.count(room)) << s.path << " includes " << name;
      } else {
        // A private header stands beside its users.
        EXPECT_TRUE(!s.header() || s.path.starts_with("src/"))
            << s.path << " is public and includes " << name;
        EXPECT_EQ(name.find('/'), std::string::npos) << s.path << " includes " << name;
      }
    }
  }
}

// With tests/hygiene/CMakeLists.txt, which compiles the others alone, this is "every header compiles alone".
TEST(Hygiene, ASourceIncludesItsOwnHeaderFirst) {
  std::set<std::string> headers;
  for (auto const& s : sources()) {
    if (s.path.starts_with("include/")) headers.insert(s.path.substr(8));
  }
  for (auto const& s : sources()) {
    if (!s.path.ends_with(".cpp")) continue;
    std::string const own = "upit/" + s.path.substr(4, s.path.size() - 8) + ".hpp";
    if (!headers.count(own)) continue;
    ASSERT_FALSE(s.includes.empty()) << s.path;
    EXPECT_EQ(s.includes.front(), "\"" + own + "\"") << s.path << " must include its own header first";
  }
}

/// Starts MPI, ends it and aborts, before and after any Communicator lives.
bool is_runtime(Source const& s) {
  return s.path == "src/core/runtime.cpp" || s.path == "include/upit/core/runtime.hpp";
}

TEST(Hygiene, OnlyCommIoAndTheRuntimeNameMpi) {
  for (auto const& s : sources()) {
    if (s.room == "comm" || s.room == "io" || is_runtime(s)) continue;
    for (std::size_t const at : places(s.code, "MPI_", true)) ADD_FAILURE() << s.path << ":" << s.line(at);
    for (auto const& include : s.includes) EXPECT_NE(include, "<mpi.h>") << s.path;
  }
}

TEST(Hygiene, FilesAreOfTheCommunicatorTheyAreGiven) {
  for (auto const& s : sources()) {
    if (s.room == "comm" || is_runtime(s)) continue;
    for (std::size_t const at : places(s.code, "MPI_COMM_WORLD"))
      ADD_FAILURE() << s.path << ":" << s.line(at);
  }
}

/// The first argument of a call whose name ends at `at`; empty if no call follows.
std::string first_argument(std::string const& code, std::size_t at) {
  while (at < code.size() && std::isspace(static_cast<unsigned char>(code[at])) != 0) ++at;
  if (at >= code.size() || code[at] != '(') return "";
  ++at;
  while (at < code.size() && std::isspace(static_cast<unsigned char>(code[at])) != 0) ++at;
  std::size_t end = at;
  if (code[at] == '"') {
    end = code.find('"', at + 1) + 1;
  } else {
    while (end < code.size() && code[end] != ',' && code[end] != '(' && code[end] != ')') ++end;
  }
  return code.substr(at, end - at);
}

// A launch's label is a literal, or `label`, a parameter that carries one: tests/unit/train/allocations.cpp
// hears every label of a training step. Inside kernels, ranges of a team have none.
TEST(Hygiene, LabelsOfKernelsBeginWithOurName) {
  int labels = 0;
  for (auto const& s : sources()) {
    for (char const* launch : {"parallel_for", "parallel_reduce", "parallel_scan"}) {
      for (std::size_t const at : places(s.code, launch)) {
        std::string const label = first_argument(s.code, at + std::string(launch).size());
        if (label.empty()) continue;  // in a string
        if (label.find("Kokkos::TeamVectorRange") == 0 || label.find("Kokkos::TeamThreadRange") == 0 ||
            label.find("Kokkos::ThreadVectorRange") == 0) {
          continue;
        }
        bool const ours = label.starts_with("\"upit::") || label == "label";
        EXPECT_TRUE(ours) << s.path << ":" << s.line(at) << " is labelled " << label;
        ++labels;
      }
    }
    for (std::size_t const at : places(s.code, "pushRegion")) {
      std::string const label = first_argument(s.code, at + 10);
      EXPECT_TRUE(label.starts_with("\"upit::") || label == "label")
          << s.path << ":" << s.line(at) << " " << label;
    }
    if (s.path.ends_with("core/profiling.hpp")) continue;
    for (std::size_t const at : places(s.code, "ProfilingRegion const")) {
      std::size_t const open = s.code.find('(', at);
      ASSERT_NE(open, std::string::npos) << s.path << ":" << s.line(at);
      std::string const label = first_argument(s.code, open);
      EXPECT_TRUE(label.starts_with("\"upit::")) << s.path << ":" << s.line(at) << " " << label;
    }
  }
  EXPECT_GT(labels, 40);
}

TEST(Hygiene, FilesBeginWithLicenceAndPurpose) {
  for (auto const& s : sources()) {
    EXPECT_TRUE(s.text.starts_with("// SPDX-License-Identifier: Apache-2.0\n")) << s.path;
    if (!s.header()) continue;
    auto const second = s.text.find('\n') + 1;
    EXPECT_EQ(s.text.compare(second, 3, "// "), 0) << s.path << " does not say what it owns";
    EXPECT_FALSE(places(s.code, "#pragma").empty()) << s.path << " lacks #pragma once";
  }
}

TEST(Hygiene, NoFormattedOrRegexHeaders) {
  for (auto const& s : sources()) {
    for (auto const& include : s.includes) {
      EXPECT_NE(include, "<format>") << s.path << ": g++ 12 has none";
      EXPECT_NE(include, "<regex>") << s.path << ": hipcc 5 crashes on it";
    }
  }
}

}  // namespace
}  // namespace upit::test
