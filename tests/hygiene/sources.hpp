// SPDX-License-Identifier: Apache-2.0
// Owns the reading of the project's own sources, for checks of style that a compiler does not make.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace upit::test {

/// One file of include/upit or src.
struct Source {
  std::string path;  // from the root
  std::string room;
  std::string text;
  std::string code;                   // text without comments; the contents of strings stay
  std::vector<std::string> includes;  // "upit/..." with quotes, <...> with brackets, in order
  bool header() const { return path.ends_with(".hpp"); }
  int line(std::size_t at) const {
    return 1 +
           static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
  }
};

/// Comments become blanks, so that places stay what they are.
inline std::string without_comments(std::string text) {
  enum { code, line, block, string, character } state = code;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char const c = text[i], next = i + 1 < text.size() ? text[i + 1] : '\0';
    switch (state) {
      case code:
        if (c == '/' && next == '/') state = line;
        if (c == '/' && next == '*') state = block;
        if (c == '"') state = string;
        // A digit before it: a separator inside a number.
        if (c == '\'' && (i == 0 || std::isalnum(static_cast<unsigned char>(text[i - 1])) == 0))
          state = character;
        if (state == line || state == block) text[i] = ' ';
        break;
      case line:
        if (c == '\n') state = code;
        if (c != '\n') text[i] = ' ';
        break;
      case block:
        if (c == '*' && next == '/') {
          text[i] = text[i + 1] = ' ';
          ++i;
          state = code;
        } else if (c != '\n') {
          text[i] = ' ';
        }
        break;
      case string:
      case character:
        if (c == '\\')
          ++i;
        else if (c == (state == string ? '"' : '\''))
          state = code;
        break;
    }
  }
  return text;
}

inline Source read_source(std::filesystem::path const& root, std::filesystem::path const& file) {
  Source s;
  s.path = std::filesystem::relative(file, root).generic_string();
  std::string const below =
      s.path.substr(s.path.starts_with("src/") ? 4 : std::string("include/upit/").size());
  s.room = below.substr(0, below.find('/'));
  std::ostringstream all;
  all << std::ifstream(file, std::ios::binary).rdbuf();
  s.text = all.str();
  s.code = without_comments(s.text);
  std::istringstream lines(s.code);
  for (std::string text; std::getline(lines, text);) {
    if (!text.starts_with("#include ")) continue;
    auto const end = text.find_last_of("\">");
    s.includes.push_back(text.substr(9, end - 8));
  }
  return s;
}

/// Every .hpp and .cpp of include/upit and src, by path.
inline std::vector<Source> const& sources() {
  static std::vector<Source> const all = [] {
    std::vector<Source> list;
    std::filesystem::path const root = UPIT_SOURCE_DIR;
    for (char const* folder : {"include/upit", "src"}) {
      for (auto const& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
        auto const extension = entry.path().extension();
        if (extension == ".hpp" || extension == ".cpp") list.push_back(read_source(root, entry.path()));
      }
    }
    std::sort(list.begin(), list.end(), [](auto const& a, auto const& b) { return a.path < b.path; });
    return list;
  }();
  return all;
}

}  // namespace upit::test
