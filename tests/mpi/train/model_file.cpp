// SPDX-License-Identifier: Apache-2.0
// Owns tests of model files and restart states at any number of ranks, and of their errors.
#include "upit/train/model_file.hpp"

#include "mpi/io/shared_scratch.hpp"
#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"
#include "upit/train/load_model.hpp"

namespace upit::test {
namespace {

namespace fs = std::filesystem;

struct Model {
  ModelConfig model = tiny_model(false, 2);
  ExpertConfig expert = tiny_experts(3, 2, LoraMix::ffn, RouterOrder::softmax_topk);
  ParameterTable table;
  Weights<float> weights;

  explicit Model(Trained trained = {false, true, true})
      : table(model, expert, trained), weights(random_weights<float>(table, 3)) {}
  ModelFileInfo info(std::string const& kind) const {
    ModelFileInfo i;
    i.kind = kind;
    i.model = model;
    i.expert = expert;
    i.base_hash = backbone_hash(table, weights);
    i.tokenizer = "bytes";
    i.prompt = "plain";
    i.deck = "[train]\nepochs = 2\n# a \"quoted\" line\n";
    i.step = 41;
    return i;
  }
};

void expect_info(ModelFileInfo const& found, ModelFileInfo const& expected) {
  EXPECT_EQ(found.kind, expected.kind);
  EXPECT_EQ(found.model, expected.model);
  EXPECT_EQ(found.expert, expected.expert);
  EXPECT_EQ(found.base_hash, expected.base_hash);
  EXPECT_EQ(found.tokenizer, expected.tokenizer);
  EXPECT_EQ(found.prompt, expected.prompt);
  EXPECT_EQ(found.deck, expected.deck);
  EXPECT_EQ(found.step, expected.step);
  EXPECT_FALSE(found.program.empty());
}

TEST(ModelFile, ComesBackBitForBitAtAnyNumberOfRanks) {
  Communicator const world = Communicator::world();
  Communicator const alone = world.split(world.rank()), pairs = world.split(world.rank() / 2);
  SharedScratch const scratch(world);
  Model const m;
  std::vector<Groups> const all = {
      {true, true, true}, {true, false, false}, {false, true, false}, {false, true, true}};
  for (Groups const g : all) {
    std::string const path = scratch.path("model.h5");
    write_model_file(path, world, m.info("moe"), m.table, m.weights, g);
    for (Communicator const* comm : {&world, &pairs, &alone, static_cast<Communicator const*>(nullptr)}) {
      expect_info(read_model_info(path, comm), m.info("moe"));
      Weights<float> const back(m.table);
      read_model_file(path, comm, m.table, back, g);
      EXPECT_EQ(flat(back.backbone) == flat(m.weights.backbone), g.backbone);
      EXPECT_EQ(flat(back.expert) == flat(m.weights.expert), g.expert);
      EXPECT_EQ(flat(back.router) == flat(m.weights.router), g.router);
    }
    world.barrier();  // all have read before the next one replaces it
  }
}

TEST(ModelFile, BytesAreThoseOfTheTensors) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const m;
  std::string const path = scratch.path("model.h5");
  write_model_file(path, world, m.info("moe"), m.table, m.weights, {true, true, true});
  Index const bytes = model_file_bytes(m.table, {true, true, true});
  EXPECT_EQ(bytes, 4 * (m.table.count(Group::backbone) + m.table.count(Group::expert) +
                        m.table.count(Group::router)));
  EXPECT_EQ(model_file_bytes(m.table, {false, false, true}), 4 * m.table.count(Group::router));
  auto const on_disk = static_cast<Index>(fs::file_size(path));
  EXPECT_GE(on_disk, bytes);
  EXPECT_LT(on_disk, bytes + (Index{1} << 16));
}

TEST(ModelFile, BackboneHashIsOfTheBackboneAlone) {
  Communicator const world = Communicator::world();
  Model const m;
  std::string const hash = backbone_hash(m.table, m.weights);
  EXPECT_EQ(hash.size(), 32u);
  EXPECT_TRUE(world.same(hash));
  Kokkos::deep_copy(m.weights.expert, 1.0f);
  Kokkos::deep_copy(m.weights.router, 1.0f);
  EXPECT_EQ(backbone_hash(m.table, m.weights), hash);
  // Neither does the trained set or the number of experts matter.
  ParameterTable const dense(m.model, {}, {true, false, false});
  Weights<float> const w(dense);
  Kokkos::deep_copy(w.backbone, m.weights.backbone);
  EXPECT_EQ(backbone_hash(dense, w), hash);
  float* const one = w.backbone.data() + dense.find("head").offset;
  put(one, get(one) + 1.0f);
  EXPECT_NE(backbone_hash(dense, w), hash);
}

TEST(ModelFile, ShapesGoThroughText) {
  for (auto const router : {RouterUse::none, RouterUse::gate, RouterUse::auxiliary}) {
    Model m;
    m.expert.router = router;
    m.expert.alpha = 1.0 / 3.0;
    m.model.rope_theta = 1e6 / 7.0;
    m.model.norm_eps = 1e-6;
    ModelConfig model;
    ExpertConfig expert;
    parse_model_json(model_json(m.model, m.expert), model, expert);
    EXPECT_EQ(model, m.model);
    EXPECT_EQ(expert, m.expert);
  }
  ModelConfig model;
  ExpertConfig expert;
  EXPECT_THROW(parse_model_json("{\"model\": {}}", model, expert), Error);
  EXPECT_THROW(parse_model_json("no json", model, expert), Error);
}

TEST(ModelFile, WhatDoesNotFitIsOneLineOnAllRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const m;
  std::string const path = scratch.path("dense.h5");
  write_model_file(path, world, m.info("dense"), m.table, m.weights, {true, false, false});

  // Tensors that are not there.
  expect_agreed(world,
                [&] {
                  read_model_file(path, &world, m.table, m.weights, {true, true, false});
                },
                {"dense.h5", "expert/layers.0.lora.gate_up_a"});
  // Another width of the FFN: same names, other shapes.
  ModelConfig wider = m.model;
  wider.ffn += 2;
  ParameterTable const wide(wider, {});
  Weights<float> const w(wide);
  expect_agreed(world,
                [&] {
                  read_model_file(path, &world, wide, w, {true, false, false});
                },
                {"dense.h5", "layers.0.ffn.gate_up", "(20, 12)", "(24, 12)"});
  // Another number of layers.
  ModelConfig deeper = m.model;
  deeper.layers = 3;
  ParameterTable const deep(deeper, {});
  Weights<float> const d(deep);
  expect_agreed(world,
                [&] {
                  read_model_file(path, &world, deep, d, {true, false, false});
                },
                {"dense.h5", "layers.2.attention_norm"});
}

TEST(ModelFile, WhatIsNoModelIsOneLineOnAllRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const m;
  Weights<float> const w(m.table);
  auto const both = [&](std::string const& path, std::vector<std::string> const& parts) {
    expect_agreed(
        world, [&] { read_model_info(path, &world); }, parts);
    expect_agreed(
        world,
        [&] {
          read_model_file(path, &world, m.table, w, {true, true, true});
        },
        parts);
  };
  both(scratch.path("missing.h5"), {"missing.h5"});
  both(scratch.write("text.h5", "no HDF5 at all\n"), {"text.h5"});
  both(scratch.write("empty.h5", ""), {"empty.h5"});
  {
    H5File other = H5File::create(scratch.path("other.h5"), &world);
    other.write_attribute<Index>("/", "answer", 42);
    other.close();
  }
  both(scratch.path("other.h5"), {"other.h5", "upit"});
  {
    H5File later = H5File::create(scratch.path("later.h5"), &world);
    later.write_attribute<Index>("/", "upit_format", ModelFileInfo::kFormat + 1);
    later.close();
  }
  both(scratch.path("later.h5"), {"later.h5", "format 2", "format 1"});
  {
    H5File shapeless = H5File::create(scratch.path("shapeless.h5"), &world);
    shapeless.write_attribute<Index>("/", "upit_format", ModelFileInfo::kFormat);
    shapeless.write_attribute<std::string>("/", "kind", "dense");
    shapeless.write_attribute<std::string>("/", "shapes", "{}");
    shapeless.close();
  }
  both(scratch.path("shapeless.h5"), {"shapeless.h5", "shapes"});
  // Cut off in the tensors, and in the header.
  for (double const share : {0.9, 0.5, 0.01}) {
    std::string const path = scratch.path("cut.h5");
    write_model_file(path, world, m.info("moe"), m.table, m.weights, {true, true, true});
    if (world.root()) {
      fs::resize_file(path, static_cast<std::uintmax_t>(share * static_cast<double>(fs::file_size(path))));
    }
    world.barrier();
    expect_agreed(world, [&] { read_model_file(path, &world, m.table, w, {true, true, true}); }, {"cut.h5"});
    world.barrier();
  }
}

TEST(ModelFile, ThatCannotBeWrittenIsOneLineOnAllRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const m;
  expect_agreed(world,
                [&] {
                  write_model_file(scratch.path("no/such/directory/model.h5"), world, m.info("moe"), m.table,
                                   m.weights, {true, true, true});
                },
                {"no/such/directory/model.h5"});
}

TEST(State, ComesBackBitForBit) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  for (Trained const trained : {Trained{false, true, true}, Trained{true, false, false},
                                Trained{true, true, true}, Trained{false, false, true}}) {
    Model const m(trained);
    Index const n = m.table.gradient_extent();
    View1<float> const first("first", n), second("second", n);
    // Values in the tensors, zero in the padding between them.
    for (auto const& t : m.table.tensors()) {
      if (t.gradient_offset < 0) continue;
      RandomKey const key = random_key(1, t.name);
      std::vector<float> one, two;
      for (Index i = 0; i < t.size(); ++i) {
        one.push_back(static_cast<float>(random_normal(key, static_cast<std::uint64_t>(i))));
        two.push_back(1e-30f * static_cast<float>(i + 1));
      }
      put_all(first.data() + t.gradient_offset, one);
      put_all(second.data() + t.gradient_offset, two);
    }
    std::string const path = scratch.path("state.h5");
    write_state(path, world, m.info("state"), m.table, m.weights, first, second);
    Weights<float> const back(m.table);
    View1<float> const first_back("first", n), second_back("second", n);
    EXPECT_EQ(read_state(path, world, m.table, back, first_back, second_back), 41);
    EXPECT_EQ(flat(back.backbone) == flat(m.weights.backbone), trained.backbone);
    EXPECT_EQ(flat(back.expert) == flat(m.weights.expert), trained.expert);
    EXPECT_EQ(flat(back.router) == flat(m.weights.router), trained.router);
    EXPECT_EQ(flat(first_back), flat(first));
    EXPECT_EQ(flat(second_back), flat(second));
    world.barrier();
  }
}

TEST(State, OfAnotherTrainedSetIsOneLineOnAllRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const experts({false, true, false}), all({true, true, true});
  View1<float> const a("a", experts.table.gradient_extent()), b("b", all.table.gradient_extent());
  std::string const path = scratch.path("state.h5");
  write_state(path, world, experts.info("state"), experts.table, experts.weights, a, a);
  expect_agreed(world, [&] { read_state(path, world, all.table, all.weights, b, b); },
                {"state.h5", "backbone/embedding"});
}

TEST(LoadModel, FilesOfOursComeBackWhole) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const m;
  std::string const moe = scratch.path("moe.h5"), dense = scratch.path("dense.h5");
  write_model_file(moe, world, m.info("moe"), m.table, m.weights, {true, true, true});
  LoadedModel const loaded = load_model(moe, world);
  expect_info(loaded.info, m.info("moe"));
  EXPECT_EQ(flat(loaded.weights), flat(m.weights));
  ModelFileInfo plain = m.info("dense");
  plain.expert = {};
  write_model_file(dense, world, plain, m.table, m.weights, {true, false, false});
  LoadedModel const base = load_model(dense, world);
  EXPECT_EQ(flat(base.weights), flat(m.weights.backbone));
  EXPECT_FALSE(base.table->contains("layers.0.router"));
}

TEST(LoadModel, WhatCannotRunAloneIsOneLineOnAllRanks) {
  Communicator const world = Communicator::world();
  SharedScratch const scratch(world);
  Model const m;
  write_model_file(scratch.path("expert.h5"), world, m.info("expert"), m.table, m.weights,
                   {false, true, false});
  expect_agreed(world, [&] { load_model(scratch.path("expert.h5"), world); },
                {"expert.h5", "without its base"});
  View1<float> const moment("moment", m.table.gradient_extent());
  write_state(scratch.path("state.h5"), world, m.info("state"), m.table, m.weights, moment, moment);
  expect_agreed(world, [&] { load_model(scratch.path("state.h5"), world); }, {"state.h5", "restart state"});
  expect_agreed(world, [&] { load_model(scratch.path("nowhere"), world); }, {"nowhere", "does not exist"});
  expect_agreed(world, [&] { load_model(scratch.path(""), world); }, {"config.json"});
  expect_agreed(world, [&] { load_model(scratch.write("text.h5", "none"), world); }, {"text.h5"});
  {
    H5File other = H5File::create(scratch.path("other.h5"), &world);
    other.close();
  }
  expect_agreed(world, [&] { load_model(scratch.path("other.h5"), world); }, {"other.h5"});
}

}  // namespace
}  // namespace upit::test
