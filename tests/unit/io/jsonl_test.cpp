// SPDX-License-Identifier: Apache-2.0
// Owns tests of the line reader: plain and gzip, odd line ends, long lines, damage.
#include "upit/io/jsonl.hpp"

#include <zlib.h>

#include <random>

#include "scratch.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;

namespace {

std::vector<std::string> lines_of(std::string const& path) {
  LineReader reader(path);
  std::vector<std::string> lines;
  std::string line;
  while (reader.next(line)) {
    lines.push_back(line);
    EXPECT_EQ(reader.number(), static_cast<Index>(lines.size()));
  }
  EXPECT_FALSE(reader.next(line));  // stays at the end
  return lines;
}

void write_gzip(std::string const& path, std::string const& text, char const* mode = "wb") {
  gzFile const file = gzopen(path.c_str(), mode);
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())), static_cast<int>(text.size()));
  ASSERT_EQ(gzclose(file), Z_OK);
}

std::string random_lines(int count) {
  std::mt19937 random(7);
  std::string text;
  for (int i = 0; i < count; ++i) {
    for (int j = 0; j < 60; ++j) text += static_cast<char>('!' + random() % 90);
    text += '\n';
  }
  return text;
}

}  // namespace

TEST(LineReader, PlainAndGzipAlike) {
  Scratch const s;
  struct Case {
    std::string text;
    std::vector<std::string> lines;
  };
  std::vector<Case> const cases = {{"", {}},
                                   {"\n", {""}},
                                   {"a", {"a"}},
                                   {"a\n", {"a"}},
                                   {"a\r\n\r\nb", {"a", "", "b"}},
                                   {"\xef\xbb\xbf{}\n\xef\xbb\xbf\n", {"{}", "\xef\xbb\xbf"}},
                                   {std::string("a\0b\n", 4), {std::string("a\0b", 3)}}};
  for (Case const& c : cases) {
    EXPECT_EQ(lines_of(s.write("plain.jsonl", c.text)), c.lines);
    write_gzip(s.path("packed"), c.text);  // told by content, not by name
    EXPECT_EQ(lines_of(s.path("packed")), c.lines);
  }
}

TEST(LineReader, LongLinesAcrossBuffers) {
  Scratch const s;
  std::string const long_line(3'000'001, 'x');
  std::string const text = long_line + "\nshort\n" + long_line + "y";
  std::vector<std::string> const wanted = {long_line, "short", long_line + "y"};
  EXPECT_EQ(lines_of(s.write("plain", text)), wanted);
  write_gzip(s.path("packed"), text);
  EXPECT_EQ(lines_of(s.path("packed")), wanted);
}

TEST(LineReader, MembersInARow) {
  Scratch const s;
  write_gzip(s.path("two"), "a\nb");
  write_gzip(s.path("two"), "c\nd\n", "ab");
  EXPECT_EQ(lines_of(s.path("two")), (std::vector<std::string>{"a", "bc", "d"}));
}

TEST(LineReader, WhereNamesTheLine) {
  Scratch const s;
  LineReader reader(s.write("f", "a\nb\n"));
  std::string line;
  reader.next(line);
  reader.next(line);
  EXPECT_EQ(reader.where(), s.path("f") + ":2");
}

TEST(LineReader, TruncatedGzip) {
  Scratch const s;
  write_gzip(s.path("whole"), random_lines(20000));
  auto const size = std::filesystem::file_size(s.path("whole"));
  for (auto const cut : {size - 1, size - 8, size / 2, std::uintmax_t{12}, std::uintmax_t{4}}) {
    std::filesystem::copy_file(s.path("whole"), s.path("cut"),
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(s.path("cut"), cut);
    SCOPED_TRACE(cut);
    LineReader reader(s.path("cut"));
    std::string line;
    Index lines = 0;
    try {
      while (reader.next(line)) ++lines;
      ADD_FAILURE() << "no error";
    } catch (Error const& e) {
      EXPECT_EQ(std::string(e.what()),
                s.path("cut") + ":" + std::to_string(lines + 1) + ": the gzip file is truncated here");
    }
  }
}

TEST(LineReader, DamagedGzip) {
  Scratch const s;
  write_gzip(s.path("g"), random_lines(20000));
  std::fstream file(s.path("g"), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(s.path("g"))) - 6);  // the checksum
  file.put('\x55');
  file.put('\x55');
  file.close();
  expect_error([&] { lines_of(s.path("g")); }, {s.path("g") + ":", "damaged"});
}

TEST(LineReader, NotReadable) {
  Scratch const s;
  expect_error([&] { LineReader const r(s.path("none")); }, {s.path("none"), "No such file"});
  expect_error([&] { LineReader const r(s.path()); }, {s.path(), "directory"});
}
