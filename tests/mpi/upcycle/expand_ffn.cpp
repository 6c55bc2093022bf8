// SPDX-License-Identifier: Apache-2.0
// Tests that the expansion of FFN experts decides and merges the same bits on any number of ranks, goes on
// after a stop, and reports errors on all ranks together.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mpi/io/shared_scratch.hpp"
#include "unit/upcycle/expand_ffn_support.hpp"
#include "upit/io/hash.hpp"
#include "upit/upcycle/expand.hpp"

namespace upit::test {
namespace {

/// A world, and on every rank the same expansion done alone.
struct BothFfn {
  Communicator world = Communicator::world();
  Communicator alone = world.split(world.rank());
  SharedScratch scratch{world};
  ModelFileInfo info;
  ParameterTable table;
  std::vector<Whole> models;
  std::vector<std::string> files;

  BothFfn(ModelFileInfo described, std::vector<Whole> values)
      : info(std::move(described)), table(table_of(info)), models(std::move(values)) {
    files = write_models(world, root(world), info, models);
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
      Whole const model = read_whole(root(comm) + "/" + name, table);
      for (Values const* values : {&model.backbone, &model.expert}) {
        text +=
            hash_text({reinterpret_cast<char const*>(values->data()), values->size() * sizeof(float)}) + "\n";
      }
    }
    return text;
  }
  /// Of one rank, the first: others take its word.
  std::string alone_fingerprint(ExpandOptions const& options) {
    std::string text;
    if (world.root()) {
      write_models(alone, root(alone), info, models);
      text = fingerprint(alone, grow(alone, options));
    }
    world.broadcast(text);
    return text;
  }
};

BothFfn tiny(Index count) { return {tiny_ffn_info(), tuned_models(tiny_ffn_info(), count)}; }

TEST(ExpandFfnMpi, SameBitsOnAnyNumberOfRanks) {
  BothFfn b = tiny(3);
  for (auto const strategy : {Strategy::genetic, Strategy::random}) {
    for (auto const kind : {Similarity::task_vector, Similarity::weights}) {
      ExpandOptions o = ffn_options(6);
      o.strategy = strategy;
      o.similarity = kind;
      std::string const wanted = b.alone_fingerprint(o);
      o.piece_elements = 20;  // the cut must not matter either
      EXPECT_EQ(b.fingerprint(b.world, b.grow(b.world, o)), wanted);
      b.world.barrier();  // the next round replaces the files
    }
  }
}

// Tensors of several blocks, cut by the ranks in the middle.
TEST(ExpandFfnMpi, BlocksOverRanks) {
  ModelConfig model = tiny_model(true, 2);
  model.layers = 1;
  model.ffn = 30000;
  ModelFileInfo const info = ffn_info(model);
  BothFfn b(info, tuned_models(info, 2));
  ExpandOptions o = ffn_options(4);
  std::string const wanted = b.alone_fingerprint(o);
  o.piece_elements = 50000;
  EXPECT_EQ(b.fingerprint(b.world, b.grow(b.world, o)), wanted);
}

TEST(ExpandFfnMpi, GoesOnAfterAStop) {
  BothFfn b = tiny(3);
  ExpandOptions const o = ffn_options(6);
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

TEST(ExpandFfnMpi, ExpertsThatCannotBeParents) {
  BothFfn one = tiny(1);
  expect_agreed(one.world, [&] { one.grow(one.world, ffn_options(2)); }, {"m < 2", "found 1"});
  auto models = tuned_models(tiny_ffn_info(), 3);
  models[1] = base_of(tiny_ffn_info());
  BothFfn still(tiny_ffn_info(), models);
  expect_agreed(still.world, [&] { still.grow(still.world, ffn_options(4)); },
                {"equals its start", "0 and 1"});
  models[1].expert[4] = std::numeric_limits<float>::quiet_NaN();
  BothFfn broken(tiny_ffn_info(), models);
  expect_agreed(broken.world, [&] { broken.grow(broken.world, ffn_options(4)); },
                {"expert_01.h5", "not finite"});
}

TEST(ExpandFfnMpi, FilesThatDoNotFitTogether) {
  BothFfn b = tiny(2);
  auto const refuses = [&](std::vector<std::string> const& parts) {
    expect_agreed(
        b.world, [&] { b.grow(b.world, ffn_options(3)); }, parts);
  };
  ModelFileInfo const right = b.info;
  b.info.base_hash = "another";
  refuses({"expert_00.h5", "another base"});
  b.info = right;
  b.info.expert = expert_info(right.model, 3).expert;
  expect_agreed(b.world,
                [&] {
                  ExpandOptions o = ffn_options(3);
                  o.start.clear();
                  b.grow(b.world, o);
                },
                {"expert_00.h5", "shapes"});
  b.info = right;
  // What a file says of itself may be wrong: datasets are looked at, by name.
  auto const half = [&](std::string const& name, Groups groups) {
    write_model_file(b.root(b.world) + "/" + name, b.world, right, b.table, weights_of(b.table, b.models[0]),
                     groups);
  };
  half(b.files[1], {false, true, false});
  refuses({"expert_01.h5", "backbone/embedding"});
  half(b.files[1], {true, false, false});
  refuses({"expert_01.h5", "expert/layers.0.experts.gate_up"});
  half(b.files[1], {true, true, false});
  half(kStart, {true, false, false});
  refuses({"checkpoint_00.h5", "expert/layers.0.experts.gate_up"});
  b.world.agree_on_root([&] { std::filesystem::remove(b.root(b.world) + "/" + kStart); });
  refuses({"checkpoint_00.h5"});
}

}  // namespace
}  // namespace upit::test
