// SPDX-License-Identifier: Apache-2.0
// Owns tests of HDF5 files of several ranks: pieces of any size, modes of transfer, errors on one rank or
// all.
#include "upit/io/hdf5.hpp"

#include <sys/resource.h>

#include <csignal>
#include <numeric>

#include "shared_scratch.hpp"

using namespace upit;
using upit::test::expect_agreed;
using upit::test::SharedScratch;

namespace {

using Shape = std::vector<Index>;

// The whole dataset; each rank writes some of it.
std::vector<float> reference(Index elements) {
  std::vector<float> v(static_cast<std::size_t>(elements));
  std::iota(v.begin(), v.end(), 1.0F);
  return v;
}

std::span<float const> rows_of(std::vector<float> const& all, Slab const& slab, Index row) {
  return std::span(all).subspan(static_cast<std::size_t>(slab.offset[0] * row),
                                static_cast<std::size_t>(slab.count[0] * row));
}

// Rows dealt so that the last rank has none and the first most.
Slab uneven(Index rows, int rank, int ranks) {
  if (ranks == 1) return {{0}, {rows}};
  Index const first = rows - (ranks - 2);
  if (rank == 0) return {{0}, {first}};
  if (rank == ranks - 1) return {{rows}, {0}};
  return {{first + rank - 1}, {1}};
}

class Hdf5Mpi : public ::testing::TestWithParam<Transfer> {};

}  // namespace

TEST_P(Hdf5Mpi, UnevenAndEmptyPieces) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  Shape const shape = {11, 3, 5};
  std::vector<float> const all = reference(11 * 15);
  for (Index const limit : {Index{1} << 30, Index{120}, Index{60}, Index{8}}) {  // bytes; a row has 60
    SCOPED_TRACE(limit);
    Slab const mine = uneven(11, world.rank(), world.size());
    {
      H5File file = H5File::create(s.path("f.h5"), &world, GetParam());
      file.set_request_limit(limit);
      file.create_dataset<float>("layers/0/x", shape);
      file.create_dataset<float>("none", Shape{0, 4});
      file.write<float>("layers/0/x", rows_of(all, mine, 15), mine);
      if (world.size() > 1) {
        EXPECT_EQ(file.last_transfer_collective(), GetParam() == Transfer::collective);
      }
      file.write<float>("none", {}, {});
      file.write_attribute<std::string>("layers/0/x", "axes", "NGD");
      file.close();
    }
    H5File file = H5File::open(s.path("f.h5"), &world, GetParam());
    file.set_request_limit(limit);
    EXPECT_EQ(file.read_all<float>("layers/0/x"), all);
    EXPECT_EQ(file.read_attribute<std::string>("layers/0/x", "axes"), "NGD");
    EXPECT_EQ(file.shape("none"), (Shape{0, 4}));
    // Another cut than at writing: the inner axes, nothing on rank 0 unless it is alone.
    Index const parts = std::max(1, world.size() - 1);
    Index const part = world.size() == 1 ? 0 : world.rank() - 1;
    Slab slab = {{2, 1, 0}, {6, 2, 0}};
    if (part >= 0) {
      Slab const axis = row_share(Shape{5}, part, parts);
      slab.offset[2] = axis.offset[0];
      slab.count[2] = axis.count[0];
    }
    Index const width = slab.count[2];
    std::vector<float> block(static_cast<std::size_t>(12 * width), -1.0F);
    file.read<float>("layers/0/x", block, slab);
    for (Index i = 0; i < 6; ++i) {
      for (Index j = 0; j < 2; ++j) {
        for (Index k = 0; k < width; ++k) {
          EXPECT_EQ(block[(i * 2 + j) * width + k], all[((i + 2) * 3 + j + 1) * 5 + k + slab.offset[2]]);
        }
      }
    }
    file.close();
  }
}

TEST_P(Hdf5Mpi, WholeTensorsAndOtherReaders) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  std::vector<double> const values = {1, 2, 3, 4, 5};
  std::vector<Index> const step = {Index{1} << 40};
  {
    H5File file = H5File::create(s.path("f.h5"), &world, GetParam());
    file.write_all<double>("v", values, Shape{5});
    file.write_all<Index>("step", step, Shape{});
    file.write_all<double>("w", values, Shape{1, 5});
    file.close();
  }
  // one rank alone, each at its own time
  H5File const file = H5File::open(s.path("f.h5"), nullptr);
  if (world.rank() % 2 == 0) {
    EXPECT_EQ(file.read_all<double>("v"), values);
  }
  EXPECT_EQ(file.read_all<Index>("step"), step);
  EXPECT_EQ(file.read_all<double>("w"), values);
}

INSTANTIATE_TEST_SUITE_P(Transfers, Hdf5Mpi,
                         ::testing::Values(Transfer::shared, Transfer::collective, Transfer::independent));

TEST(Hdf5MpiErrors, AreTheSameOnAllRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  std::string const path = s.path("f.h5");
  std::vector<double> const many(10000, 1.0);
  {
    H5File file = H5File::create(path, &world);
    file.write_all<double>("x", many, Shape{100, 100});
    file.close();
  }
  auto const open = [&](std::string const& name) { H5File const f = H5File::open(name, &world); };
  expect_agreed(world, [&] { open(s.path("none")); }, {s.path("none"), "No such file"});
  std::string const text = s.write("text", "no HDF5 at all");
  expect_agreed(world, [&] { open(text); }, {text, "not an HDF5 file"});
  if (world.root()) {
    std::filesystem::copy_file(path, s.path("cut"));
    std::filesystem::resize_file(s.path("cut"), 5000);
  }
  world.barrier();
  expect_agreed(world, [&] { open(s.path("cut")); }, {s.path("cut"), "truncated"});
  expect_agreed(world, [&] { H5File::create(s.path("no/f.h5"), &world); },
                {s.path("no/f.h5"), "No such file"});

  H5File file = H5File::open(path, &world);
  std::vector<double> out(100);
  int const last = world.size() - 1;
  expect_agreed(world, [&] { file.read<double>("y", out, {{0}, {1}}); }, {path, "no dataset y"});
  expect_agreed(world, [&] { file.read_all<float>("x"); }, {path, "dataset x", "float64", "float32"});
  // wrong on the last rank only
  expect_agreed(world,
                [&] {
                  file.read<double>("x", out, {{world.rank() == last ? 100 : 0}, {1}});
                },
                {path, "dataset x", "(100, 100)"});
  expect_agreed(world,
                [&] {
                  file.require_dataset<double>("x", Shape{100, world.rank() == last ? 1 : 100});
                },
                {path, "(100, 100)", "(100, 1)"});
  // and the file is still good
  file.read<double>("x", out, {{world.rank()}, {1}});
  EXPECT_EQ(out, std::vector<double>(100, 1.0));
  file.close();
}

TEST(Hdf5MpiErrors, MissingPiecesAreCountedOverRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  H5File file = H5File::create(s.path("f.h5"), &world);
  file.create_dataset<float>("x", Shape{world.size()});
  std::vector<float> const one = {1.0F};
  Slab const nothing = {{0}, {0}};
  bool const idle = world.rank() == world.size() - 1;
  file.write<float>("x", std::span(one).first(idle ? 0 : 1), idle ? nothing : Slab{{world.rank()}, {1}});
  EXPECT_THROW(file.close(), std::logic_error);
  EXPECT_FALSE(std::filesystem::exists(s.path("f.h5")));
}

namespace {

// A full disk is played by a limit on the size of files; a write beyond it then fails.
class FileSizeLimit {
 public:
  FileSizeLimit() : handler_(std::signal(SIGXFSZ, SIG_IGN)) { getrlimit(RLIMIT_FSIZE, &before_); }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(FileSizeLimit const&) = delete;
  FileSizeLimit& operator=(FileSizeLimit const&) = delete;
  void set(rlim_t bytes) const {
    struct rlimit small = before_;
    small.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &small);
  }

 private:
  struct rlimit before_ {};
  void (*handler_)(int);
};

void expect_last_good_one(std::string const& path) {
  EXPECT_TRUE(read_text_file(path) == "the last good one");
  EXPECT_FALSE(std::filesystem::exists(temporary_name(path)));
}

}  // namespace

TEST(Hdf5MpiErrors, NoRoomForADataset) {
  Communicator const world = Communicator::world();
  for (Transfer const transfer : {Transfer::shared, Transfer::collective, Transfer::independent}) {
    SharedScratch const s(world);
    std::string const path = s.write("f.h5", "the last good one");
    expect_agreed(world,
                  [&] {
                    H5File file = H5File::create(path, &world, transfer);
                    FileSizeLimit const limit;
                    if (world.root()) limit.set(1 << 16);
                    file.create_dataset<double>("x", Shape{world.size(), 1 << 14});
                  },
                  {path, "dataset x", "no room", "File too large"});
    expect_last_good_one(path);
    world.barrier();
  }
}

TEST(Hdf5MpiErrors, FailedWriteOfOneRank) {
  Communicator const world = Communicator::world();
  SharedScratch const s(world);
  std::string const path = s.write("f.h5", "the last good one");
  std::vector<double> const values(1 << 14, 1.0);
  expect_agreed(world,
                [&] {
                  H5File file = H5File::create(path, &world);
                  file.create_dataset<double>("x", Shape{world.size(), 1 << 14});
                  FileSizeLimit const limit;
                  if (world.rank() == world.size() - 1) limit.set(1 << 16);
                  file.write<double>("x", values, {{world.rank()}, {1}});
                },
                {path, "dataset x", "cannot write"});
  expect_last_good_one(path);
  world.barrier();
}
