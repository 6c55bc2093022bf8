// SPDX-License-Identifier: Apache-2.0
// Tests that the expansion decides and merges the same bits on any number of ranks, goes on after a stop, and
// reports errors on all ranks together.
#include "upit/upcycle/expand.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mpi/io/shared_scratch.hpp"
#include "unit/upcycle/expand_support.hpp"
#include "upit/io/hash.hpp"

namespace upit::test {
namespace {

/// A world, and on every rank the same expansion done alone.
struct Both {
  Communicator world = Communicator::world();
  Communicator alone = world.split(world.rank());
  SharedScratch scratch{world};
  ModelFileInfo info;
  ParameterTable table;
  std::vector<Values> experts;
  std::vector<std::string> files;

  Both(ModelFileInfo described, std::vector<Values> values)
      : info(std::move(described)), table(table_of(info)), experts(std::move(values)) {
    files = write_experts(world, root(world), info, experts);
  }
  std::string root(Communicator const& comm) const {
    return scratch.path(&comm == &world ? "world" : fmt::format("alone{}", world.rank()));
  }
  Family grow(Communicator const& comm, ExpandOptions const& options,
              std::function<void(Index)> const& between = {}) {
    return upcycle::grow_family(comm, root(comm), files, info, options, between);
  }
  /// Decisions and values, as text to the last bit.
  std::string fingerprint(Communicator const& comm, Family const& family) const {
    std::string text = upcycle::family_json(family, "", "", 0.0);
    for (auto const& name : family.names) {
      Values const values = read_expert(root(comm) + "/" + name, table);
      text += hash_text({reinterpret_cast<char const*>(values.data()), values.size() * sizeof(float)}) + "\n";
    }
    return text;
  }
  std::string alone_fingerprint(ExpandOptions const& options) {
    write_experts(alone, root(alone), info, experts);
    return fingerprint(alone, grow(alone, options));
  }
};

ExpandOptions options_for(Index count) {
  ExpandOptions o;
  o.count = count;
  o.seed = kSeed;
  o.reads = "test";
  return o;
}

Both tiny(Index count) { return {tiny_info(), tuned_experts(table_of(tiny_info()), count)}; }

TEST(ExpandMpi, SameBitsOnAnyNumberOfRanks) {
  Both b = tiny(3);
  for (auto const strategy : {Strategy::genetic, Strategy::random}) {
    for (auto const kind : {Similarity::task_vector, Similarity::weights}) {
      ExpandOptions o = options_for(6);
      o.strategy = strategy;
      o.similarity = kind;
      std::string const wanted = b.alone_fingerprint(o);
      o.piece_elements = 20;  // the cut must not matter either
      std::string const found = b.fingerprint(b.world, b.grow(b.world, o));
      EXPECT_EQ(found, wanted);
      b.world.barrier();  // the next round replaces the files
    }
  }
}

// Long rows that do not divide by the ranks.
TEST(ExpandMpi, RanksRunOutOfRowsAtDifferentSteps) {
  ModelConfig model = tiny_model(true, 2);
  model.layers = 1;
  model.ffn = 20000;
  ModelFileInfo const info = expert_info(model, 5);
  Both b(info, tuned_experts(table_of(info), 2));
  ExpandOptions o = options_for(3);
  std::string wanted;
  if (b.world.root()) wanted = b.alone_fingerprint(o);
  b.world.broadcast(wanted);
  o.piece_elements = model.ffn;  // one row a step
  EXPECT_EQ(b.fingerprint(b.world, b.grow(b.world, o)), wanted);
}

TEST(ExpandMpi, GoesOnAfterAStop) {
  Both b = tiny(3);
  ExpandOptions const o = options_for(6);
  std::string const wanted = b.alone_fingerprint(o);
  auto const stop = [](Index child) {
    if (child == 5) throw Interrupted("enough");
  };
  EXPECT_THROW(b.grow(b.world, o, stop), Interrupted);
  EXPECT_TRUE(std::filesystem::exists(b.root(b.world) + "/expand/expert_04.h5"));
  EXPECT_FALSE(std::filesystem::exists(b.root(b.world) + "/expand/expert_05.h5"));
  b.world.barrier();
  EXPECT_EQ(b.fingerprint(b.world, b.grow(b.world, o)), wanted);
}

TEST(ExpandMpi, TooFewParents) {
  Both one = tiny(1);
  expect_agreed(one.world, [&] { one.grow(one.world, options_for(2)); }, {"m < 2", "found 1"});
  Both two = tiny(2);
  ExpandOptions o = options_for(4);
  o.base_is = 0;
  expect_agreed(two.world, [&] { two.grow(two.world, o); }, {"m < 2", "found 1 beside the base"});
  o = options_for(4);
  o.strategy = Strategy::none;
  expect_agreed(two.world, [&] { two.grow(two.world, o); }, {"expand.strategy is \"none\""});
  expect_agreed(two.world, [&] { two.grow(two.world, options_for(1)); }, {"expert.count", "found 1"});
}

TEST(ExpandMpi, ExpertsThatCannotBeParents) {
  ParameterTable const table = table_of(tiny_info());
  auto experts = tuned_experts(table, 3);
  experts[1] = start_values(table);
  Both zero(tiny_info(), experts);
  expect_agreed(zero.world, [&] { zero.grow(zero.world, options_for(4)); }, {"equals its start", "0 and 1"});
  experts[1] = experts[0];
  experts[1][4] = std::numeric_limits<float>::quiet_NaN();
  Both broken(tiny_info(), experts);
  expect_agreed(broken.world, [&] { broken.grow(broken.world, options_for(4)); },
                {"expert_01.h5", "not finite"});
}

TEST(ExpandMpi, FilesThatDoNotFitTogether) {
  Both b = tiny(2);
  ModelFileInfo const right = b.info;
  b.info.base_hash = "another";
  expect_agreed(b.world, [&] { b.grow(b.world, options_for(3)); }, {"expert_00.h5", "another base"});
  b.info = right;
  b.info.expert.rank = 4;
  expect_agreed(b.world, [&] { b.grow(b.world, options_for(3)); }, {"expert_00.h5", "shapes"});
  b.info = right;
  b.files[1] = "prepare/expert_07.h5";
  expect_agreed(b.world, [&] { b.grow(b.world, options_for(3)); }, {"expert_07.h5"});
  std::string const damaged = b.root(b.world) + "/prepare/expert_07.h5";
  b.world.agree_on_root([&] { write_text_file(damaged, "not a model"); });
  expect_agreed(b.world, [&] { b.grow(b.world, options_for(3)); }, {"expert_07.h5", "not an HDF5 file"});
}

}  // namespace
}  // namespace upit::test
