// SPDX-License-Identifier: Apache-2.0
// Owns the check of how FFN experts on disk become one MoE model: element by element, on any number of ranks.
#include "upit/upcycle/assemble_ffn.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "mpi/io/shared_scratch.hpp"
#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"

namespace upit::test {
namespace {

using namespace upcycle;

struct Experts {
  ModelConfig model = tiny_model(false, 2);
  ExpertConfig single = tiny_ffn_experts(1, 1, RouterOrder::topk_softmax, RouterUse::auxiliary);
  ExpertConfig moe = tiny_ffn_experts(3, 2, RouterOrder::topk_softmax);
  ParameterTable table{model, single};
  std::vector<Weights<float>> weights;

  Experts() {
    for (std::uint64_t e = 0; e < 3; ++e) weights.push_back(random_weights<float>(table, 20 + e));
  }
  FfnStack write(SharedScratch const& scratch, Communicator const& world, std::vector<double> shares) const {
    FfnStack stack;
    stack.info.kind = "moe";
    stack.info.model = model;
    stack.info.expert = moe;
    stack.backbone_weights = std::move(shares);
    stack.has_vectors = true;
    for (std::size_t e = 0; e < weights.size(); ++e) {
      std::string const path = scratch.path("expert" + std::to_string(e) + ".h5");
      ModelFileInfo info = stack.info;
      info.kind = "expert";
      info.expert = single;
      write_model_file(path, world, info, table, weights[e], {true, true, true});
      stack.experts.push_back(path);
      stack.backbones.push_back(path);
    }
    return stack;
  }
};

TEST(Assemble, StacksExpertsAndAveragesBackbones) {
  Communicator const world = Communicator::world();
  Experts const experts;
  SharedScratch const scratch(world);
  std::vector<double> const shares = {0.5, 0.125, 0.375};
  FfnStack const stack = experts.write(scratch, world, shares);
  for (Index const piece : {1, 50, 1 << 20}) {
    SCOPED_TRACE(piece);
    std::string const path = scratch.path("moe.h5");
    write_ffn_moe(world, path, stack, piece);
    ParameterTable const table(experts.model, experts.moe);
    Weights<float> const found(table);
    EXPECT_EQ(read_model_info(path, &world).expert, experts.moe);
    read_model_file(path, &world, table, found, {true, true, true});
    for (auto const& t : table.tensors()) {
      auto const got = flat(found.tensor(t));
      std::vector<std::vector<float>> from;
      for (auto const& w : experts.weights) from.push_back(flat(w.tensor(experts.table.find(t.name))));
      for (std::size_t i = 0; i < got.size(); ++i) {
        if (t.group == Group::backbone) {
          double mean = 0.0;
          for (std::size_t e = 0; e < 3; ++e) mean += shares[e] * static_cast<double>(from[e][i]);
          ASSERT_EQ(got[i], static_cast<float>(mean)) << t.name << " " << i;
        } else {
          ASSERT_EQ(got[i], from[i / from[0].size()][i % from[0].size()]) << t.name << " " << i;
        }
      }
    }
  }
}

TEST(Assemble, DrawsRoutersWhereThereAreNoVectors) {
  Communicator const world = Communicator::world();
  Experts const experts;
  SharedScratch const scratch(world);
  FfnStack stack = experts.write(scratch, world, {1.0, 0.0, 0.0});
  stack.has_vectors = false;
  stack.seed = 77;
  std::string const path = scratch.path("moe.h5");
  write_ffn_moe(world, path, stack);
  ParameterTable const table(experts.model, experts.moe);
  Weights<float> const found(table), expected(table);
  read_model_file(path, &world, table, found, {true, true, true});
  initialise_router(table, 77, 0, expected);
  EXPECT_EQ(flat(found.router), flat(expected.router));
}

TEST(Assemble, RefusesAnExpertOfAnotherShape) {
  Communicator const world = Communicator::world();
  Experts const experts;
  SharedScratch const scratch(world);
  FfnStack const stack = experts.write(scratch, world, {1.0, 0.0, 0.0});
  ModelConfig other = experts.model;
  other.ffn += 2;
  ParameterTable const table(other, experts.single);
  write_model_file(stack.experts[1], world, stack.info, table, random_weights<float>(table, 1),
                   {true, true, true});
  EXPECT_THROW(write_ffn_moe(world, scratch.path("moe.h5"), stack), AgreedError);
  world.barrier();
  EXPECT_FALSE(std::filesystem::exists(scratch.path("moe.h5")));
}

TEST(Assemble, WeightsOfBackbonesGoBackToCheckpoints) {
  EXPECT_EQ(backbone_weights("all", 4, 2), (std::vector<double>{0.25, 0.25, 0.25, 0.25}));
  EXPECT_EQ(backbone_weights("checkpoints", 4, 2), (std::vector<double>{0.5, 0.5, 0.0, 0.0}));
  EXPECT_THROW(backbone_weights("some", 4, 2), Error);
  // c = mean(a, b), d = mean(a, c): of four equal shares a gets 1/4 + 1/8 + (1/8 + 1/16), b the rest.
  std::string const family = R"({"experts": ["a", "b", "c", "d"], "children": [
    {"expert": "c", "parents": ["a", "b"], "weight_of_first": 0.25},
    {"expert": "d", "parents": ["a", "c"], "weight_of_first": 0.5}]})";
  EXPECT_EQ(checkpoint_weights(backbone_weights("all", 4, 2), 2, family, false),
            (std::vector<double>{0.5625, 0.4375}));
  // Weighted: d leaves 1/8 to a and 1/8 to c, so c has 3/8, of which a gets a quarter.
  EXPECT_EQ(checkpoint_weights(backbone_weights("all", 4, 2), 2, family, true),
            (std::vector<double>{0.46875, 0.53125}));
  EXPECT_THROW(checkpoint_weights({0.5, 0.5}, 1, "{", false), Error);
}

}  // namespace
}  // namespace upit::test
