// SPDX-License-Identifier: Apache-2.0
// Owns tests of HDF5 files of one rank: types, slabs, attributes, every error, whole or absent.
#include "upit/io/hdf5.hpp"

#include <sys/resource.h>

#include <csignal>
#include <numeric>

#include "scratch.hpp"

using namespace upit;
using upit::test::expect_error;
using upit::test::Scratch;

namespace {

using Shape = std::vector<Index>;

template <class T>
std::vector<T> counted(Index n) {
  std::vector<T> v(static_cast<std::size_t>(n));
  std::iota(v.begin(), v.end(), T{1});
  return v;
}

template <class T>
void put(H5File& file, std::string const& name, std::vector<T> const& values, Shape const& shape) {
  file.write_all<T>(name, values, shape);
}

template <class T>
void round_trip(std::string const& type) {
  Scratch const s;
  {
    H5File file = H5File::create(s.path("f.h5"), nullptr);
    put(file, "a/b/x", counted<T>(6), {2, 3});
    put(file, "scalar", counted<T>(1), {});
    put(file, "none", std::vector<T>{}, {0, 7});
    EXPECT_FALSE(std::filesystem::exists(s.path("f.h5")));
    file.close();
  }
  EXPECT_FALSE(std::filesystem::exists(temporary_name(s.path("f.h5"))));
  H5File const file = H5File::open(s.path("f.h5"), nullptr);
  EXPECT_EQ(file.read_all<T>("a/b/x"), counted<T>(6));
  EXPECT_EQ(file.read_all<T>("scalar"), counted<T>(1));
  EXPECT_TRUE(file.read_all<T>("none").empty());
  EXPECT_EQ(file.shape("none"), (Shape{0, 7}));
  EXPECT_EQ(file.shape("scalar"), Shape{});
  EXPECT_EQ(file.type("a/b/x"), type);
}

}  // namespace

TEST(Hdf5, EveryType) {
  round_trip<float>("float32");
  round_trip<double>("float64");
  round_trip<int>("int32");
  round_trip<Index>("int64");
  round_trip<std::uint64_t>("uint64");
}

TEST(Hdf5, SlabsAtEveryRequestLimit) {
  Scratch const s;
  Shape const shape = {4, 3, 5};
  std::vector<float> const values = counted<float>(60);
  for (Index const limit : {1, 4, 12, 19, 20, 21, 60, 61, 119, 120, 200, 1000}) {  // bytes; an element has 4
    SCOPED_TRACE(limit);
    {
      H5File file = H5File::create(s.path("f.h5"), nullptr);
      file.set_request_limit(limit);
      file.create_dataset<float>("x", shape);
      std::span<float const> const all(values);
      file.write<float>("x", all.subspan(0, 30), {{0}, {2}});
      file.write<float>("x", all.subspan(30, 5), {{2, 0}, {1, 1}});
      file.write<float>("x", all.subspan(35, 10), {{2, 1}, {1, 2}});
      file.write<float>("x", all.subspan(45, 0), {{3}, {0}});
      file.write<float>("x", all.subspan(45, 15), {{3, 0, 0}, {1, 3, 5}});
      file.close();
    }
    H5File file = H5File::open(s.path("f.h5"), nullptr);
    file.set_request_limit(limit);
    EXPECT_EQ(file.read_all<float>("x"), values);
    // an inner block, against the definition of row-major order
    std::vector<float> block(2 * 2 * 3);
    file.read<float>("x", block, {{1, 1, 2}, {2, 2, 3}});
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        for (int k = 0; k < 3; ++k)
          EXPECT_EQ(block[(i * 2 + j) * 3 + k], values[((i + 1) * 3 + j + 1) * 5 + k + 2]);
      }
    }
  }
}

TEST(Hdf5, Attributes) {
  Scratch const s;
  std::string const big(200000, 'd');  // beyond the 64 KiB of the old format
  {
    H5File file = H5File::create(s.path("f.h5"), nullptr);
    put(file, "x", counted<float>(2), {2});
    file.write_attribute<std::string>("/", "deck", big);
    file.write_attribute<std::string>("/", "empty", "");
    file.write_attribute<std::string>("x", "axes", "N");
    file.write_attribute<std::string>("x", "axes", "C");  // replaced
    file.write_attribute<Index>("group/below", "step", Index{1} << 40);
    file.write_attribute<double>("group", "loss", 0.1);
    file.close();
  }
  H5File const file = H5File::open(s.path("f.h5"), nullptr);
  EXPECT_EQ(file.read_attribute<std::string>("/", "deck"), big);
  EXPECT_EQ(file.read_attribute<std::string>("/", "empty"), "");
  EXPECT_EQ(file.read_attribute<std::string>("x", "axes"), "C");
  EXPECT_EQ(file.read_attribute<Index>("group/below", "step"), Index{1} << 40);
  EXPECT_EQ(file.read_attribute<double>("group", "loss"), 0.1);
  EXPECT_EQ(file.attributes("/"), (std::vector<std::string>{"deck", "empty"}));
  EXPECT_EQ(file.attribute_text("group", "loss"), "0.1");
  EXPECT_EQ(file.attribute_text("x", "axes"), "C");
  EXPECT_EQ(file.attribute_text("group/below", "step"), "1099511627776");
  EXPECT_EQ(file.names(), (std::vector<std::string>{"group", "x"}));
  EXPECT_EQ(file.names("group"), std::vector<std::string>{"below"});
  EXPECT_TRUE(file.exists("group/below"));
  EXPECT_TRUE(file.exists("/"));
  EXPECT_FALSE(file.exists("no/such/thing"));
  EXPECT_FALSE(file.exists("x/below"));
  EXPECT_TRUE(file.is_dataset("x"));
  EXPECT_FALSE(file.is_dataset("group"));
  EXPECT_TRUE(file.has_attribute("x", "axes"));
  EXPECT_FALSE(file.has_attribute("x", "deck"));
  expect_error([&] { file.read_attribute<Index>("x", "none"); },
               {s.path("f.h5"), "attribute none of x", "missing"});
  expect_error([&] { file.read_attribute<Index>("x", "axes"); }, {"attribute axes of x", "string", "int64"});
  expect_error([&] { file.read_attribute<std::string>("group", "loss"); },
               {"attribute loss", "float64", "string"});
  expect_error([&] { file.read_attribute<Index>("no/such", "axes"); }, {"no group or dataset no/such"});
}

TEST(Hdf5, WrongDatasets) {
  Scratch const s;
  {
    H5File file = H5File::create(s.path("f.h5"), nullptr);
    put(file, "g/x", counted<float>(6), {2, 3});
    file.close();
  }
  std::string const path = s.path("f.h5");
  H5File const file = H5File::open(path, nullptr);
  std::vector<float> out(6);
  expect_error([&] { file.read<float>("g/y", out, {}); }, {path, "no dataset g/y"});
  expect_error([&] { file.read<float>("g", out, {}); }, {path, "g is not a dataset"});
  expect_error([&] { file.read_all<double>("g/x"); }, {path, "g/x", "float32", "float64"});
  expect_error([&] { file.read<float>("g/x", out, {{1}, {2}}); }, {path, "g/x", "(2, 3)", "(1)", "(2)"});
  expect_error([&] { file.read<float>("g/x", out, {{0, 0, 0}, {1, 1, 1}}); }, {path, "g/x", "(2, 3)"});
  expect_error([&] { file.read<float>("g/x", out, {{-1}, {1}}); }, {path, "g/x"});
  Shape const wanted = {3, 2};
  expect_error([&] { file.require_dataset<float>("g/x", wanted); }, {path, "g/x", "(2, 3)", "(3, 2)"});
  expect_error([&] { file.require_dataset<int>("g/x", Shape{2, 3}); }, {path, "g/x", "float32", "int32"});
  EXPECT_NO_THROW(file.require_dataset<float>("g/x", Shape{2, 3}));
  expect_error([&] { file.names("g/x"); }, {path, "g/x is not a group"});
  EXPECT_THROW(file.read<float>("g/x", std::span<float>(out).subspan(1), {}), std::logic_error);
}

TEST(Hdf5, FilesThatAreNone) {
  Scratch const s;
  auto const open = [&](std::string const& path) { H5File const f = H5File::open(path, nullptr); };
  expect_error([&] { open(s.path("none")); }, {s.path("none"), "No such file"});
  expect_error([&] { open(s.write("empty", "")); }, {s.path("empty"), "not an HDF5 file"});
  expect_error([&] { open(s.write("text", std::string(4000, 'x'))); }, {s.path("text"), "not an HDF5 file"});
  expect_error([&] { open(s.path()); }, {s.path()});
  {
    H5File file = H5File::create(s.path("f.h5"), nullptr);
    put(file, "x", counted<double>(10000), {10000});
    file.close();
  }
  auto const size = std::filesystem::file_size(s.path("f.h5"));
  for (auto const cut : {size - 1, size / 2, std::uintmax_t{50}, std::uintmax_t{8}}) {
    std::filesystem::copy_file(s.path("f.h5"), s.path("cut"),
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::resize_file(s.path("cut"), cut);
    SCOPED_TRACE(cut);
    expect_error([&] { open(s.path("cut")); }, {s.path("cut"), "truncated"});
  }
}

TEST(Hdf5, WholeOrAbsent) {
  Scratch const s;
  std::string const path = s.path("f.h5");
  s.write("f.h5", "the last good one");
  {
    H5File file = H5File::create(path, nullptr);
    put(file, "x", counted<float>(6), {6});
    EXPECT_TRUE(std::filesystem::exists(temporary_name(path)));
  }  // abandoned
  EXPECT_EQ(read_text_file(path), "the last good one");
  EXPECT_FALSE(std::filesystem::exists(temporary_name(path)));
  {
    H5File file = H5File::create(path, nullptr);
    file.create_dataset<float>("x", Shape{6});
    std::vector<float> const five(5);
    file.write<float>("x", five, {{0}, {5}});
    EXPECT_THROW(file.close(), std::logic_error);  // an element was never written
  }
  {
    H5File file = H5File::create(path, nullptr);
    file.create_dataset<float>("x", Shape{6});
    std::vector<float> const six(6);
    file.write<float>("x", six, {});
    file.write<float>("x", std::span(six).subspan(5), {{5}, {1}});
    EXPECT_THROW(file.close(), std::logic_error);  // one was written twice
  }
  EXPECT_EQ(read_text_file(path), "the last good one");
  EXPECT_FALSE(std::filesystem::exists(temporary_name(path)));
  expect_error([&] { H5File::create(s.path("no/f.h5"), nullptr); }, {s.path("no/f.h5"), "No such file"});
  H5File file = H5File::create(path, nullptr);
  put(file, "x", counted<float>(6), {6});
  expect_error([&] { file.create_dataset<float>("x", Shape{6}); }, {path, "x is there already"});
  EXPECT_FALSE(std::filesystem::exists(temporary_name(path)));
}

// A full disk is played by a limit on the size of files, before a dataset is made or before it is written.
TEST(Hdf5, FullDisk) {
  for (bool const at_creation : {true, false}) {
    Scratch const s;
    std::string const path = s.path("f.h5");
    struct rlimit before {};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    auto* const handler = std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the limit then fails with EFBIG
    struct rlimit small = before;
    small.rlim_cur = 1 << 16;
    std::vector<double> const values(1 << 15, 1.0);
    expect_error(
        [&] {
          H5File file = H5File::create(path, nullptr);
          if (at_creation) setrlimit(RLIMIT_FSIZE, &small);
          file.create_dataset<double>("x", Shape{1 << 15});
          setrlimit(RLIMIT_FSIZE, &small);
          file.write<double>("x", values, {});
        },
        {path, "dataset x", at_creation ? "no room for 262144 bytes" : "cannot write", "File too large"});
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_FALSE(std::filesystem::exists(temporary_name(path)));
  }
}

TEST(Hdf5, RowsAreCutEvenly) {
  Shape const shape = {10, 3};
  Index at = 0;
  for (Index part = 0; part < 4; ++part) {
    Slab const slab = row_share(shape, part, 4);
    EXPECT_EQ(slab.offset[0], at);
    at += slab.count[0];
  }
  EXPECT_EQ(at, 10);
  EXPECT_EQ(row_share(Shape{2}, 3, 4).count[0], 0);
}
