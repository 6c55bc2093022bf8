// SPDX-License-Identifier: Apache-2.0
// Owns tests of plain files and hashes.
#include "upit/io/files.hpp"

#include <fcntl.h>

#include "scratch.hpp"
#include "upit/io/hash.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;

TEST(Files, TextIsWholeAndReplaced) {
  Scratch const s;
  std::string const path = s.path("a.txt");
  write_text_file(path, "first, longer\n");
  write_text_file(path, "second\n");
  EXPECT_EQ(read_text_file(path), "second\n");
  write_text_file(path, "");
  EXPECT_EQ(read_text_file(path), "");
  EXPECT_FALSE(std::filesystem::exists(temporary_name(path)));
}

TEST(Files, BareNameIsInTheWorkingDirectory) {
  Scratch const s;
  auto const before = std::filesystem::current_path();
  std::filesystem::current_path(s.path());
  write_text_file("bare.txt", "x");
  EXPECT_EQ(read_text_file("bare.txt"), "x");
  std::filesystem::current_path(before);
}

TEST(Files, ErrorsNameFileAndReason) {
  Scratch const s;
  expect_error([&] { read_text_file(s.path("none")); }, {s.path("none"), "No such file"});
  expect_error([&] { write_text_file(s.path("no/dir/a"), "x"); }, {s.path("no/dir/a"), "No such file"});
  s.write("data", "x");
  std::filesystem::create_directory(s.path("folder"));
  std::filesystem::create_directory(s.path("folder/full"));
  expect_error([&] { commit_file(s.path("data"), s.path("folder")); },
               {s.path("data"), s.path("folder"), "rename"});
  EXPECT_TRUE(std::filesystem::exists(s.path("data")));
  expect_error([&] { write_text_file(s.path("folder"), "x"); }, {"rename"});
  EXPECT_FALSE(std::filesystem::exists(temporary_name(s.path("folder"))));
}

TEST(Files, FullDeviceIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  FileDescriptor const full("/dev/full", O_WRONLY);
  expect_error([&] { write_all(full, "x", "/dev/full"); }, {"/dev/full", "No space left"});
}

TEST(Files, FreeSpace) {
  Scratch const s;
  Index const free = free_space(s.path());
  EXPECT_GT(free, 0);
  EXPECT_NO_THROW(require_free_space(s.path(), 1, "a byte"));
  expect_error([&] { require_free_space(s.path(), Index{1} << 62, "the checkpoint"); },
               {s.path(), "the checkpoint", "free"});
  expect_error([&] { free_space(s.path("none")); }, {s.path("none"), "No such file"});
}

TEST(Hash, KnownValues) {
  // XXH3_128bits of the empty input, from the specification of xxHash.
  EXPECT_EQ(hash_text(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_NE(hash_text("a"), hash_text("b"));
  EXPECT_EQ(hash_text("a").size(), 32u);
}

TEST(Hash, PiecesAndFilesAgreeWithWhole) {
  std::string text;
  for (int i = 0; i < 700000; ++i)
    text += static_cast<char>('a' + i * 7 % 23);  // beyond the file's piece: next line
  text += text + text;
  Scratch const s;
  std::string const path = s.write("big", text);
  EXPECT_EQ(hash_file(path), hash_text(text));
  Hasher pieces;
  for (std::size_t i = 0; i < text.size(); i += 9973) pieces.add(std::string_view(text).substr(i, 9973));
  EXPECT_EQ(pieces.hex(), hash_text(text));
  text[1234567] ^= 1;
  EXPECT_NE(hash_file(path), hash_text(text));
  EXPECT_EQ(hash_file(s.write("empty", "")), hash_text(""));
  expect_error([&] { hash_file(s.path("none")); }, {s.path("none")});
}
