// SPDX-License-Identifier: Apache-2.0
// Tests the expansion of FFN experts against its definition: masks, backbones, cosines, parents, pieces, what
// is kept after a stop.
#include <gtest/gtest.h>

#include <limits>

#include "unit/io/scratch.hpp"
#include "unit/upcycle/expand_ffn_support.hpp"
#include "upit/upcycle/expand.hpp"
#include "upit/upcycle/expand_blocks.hpp"

namespace upit::test {
namespace {

using upcycle::Backbone;
using upcycle::Piece;
using upcycle::RowBlocks;

// Products of float values are summed in double; children without masks are rounded to float on one side.
constexpr double kDouble = 1e-12, kFloat = 1e-6;

struct GrownFfn {
  Scratch scratch;
  ModelFileInfo info = tiny_ffn_info();
  ParameterTable table = table_of(info);
  Communicator world = Communicator::world();
  std::vector<std::string> files;
  Family family;

  GrownFfn(std::vector<Whole> const& models, ExpandOptions const& options) {
    files = write_models(world, scratch.path(), info, models);
    grow(options);
  }
  void grow(ExpandOptions const& options) {
    family = upcycle::grow_family(world, scratch.path(), files, info, options);
  }
  std::string path(Index number) const {
    return scratch.path(family.names.at(static_cast<std::size_t>(number)));
  }
  Whole model(Index number) const { return read_whole(path(number), table); }
};

std::vector<Whole> some_models(Index count) { return tuned_models(tiny_ffn_info(), count); }

class ExpandFfnCases : public ::testing::TestWithParam<std::tuple<Strategy, Similarity, bool, Backbone>> {};

TEST_P(ExpandFfnCases, EqualsTheSlowExpansion) {
  ExpandOptions o = ffn_options(7);
  std::tie(o.strategy, o.similarity, o.reuse_pairs, o.backbone) = GetParam();
  auto const models = some_models(4);
  GrownFfn const g(models, o);
  expect_same(g.family, slow_ffn_family(g.info, models, o), kFloat);

  for (auto const& c : g.family.children) {
    // From the parents as they are on disk: either side rounds a double to float once.
    Whole const found = g.model(c.number);
    Whole const wanted = slow_ffn_merge(g.info, g.model(c.first), g.model(c.second), c, o.drop, o.backbone);
    for (std::size_t i = 0; i < found.expert.size(); ++i) {
      ASSERT_NEAR(found.expert[i], wanted.expert[i],
                  std::numeric_limits<float>::epsilon() * std::abs(wanted.expert[i]))
          << "child " << c.number << " element " << i;
    }
    for (std::size_t i = 0; i < found.backbone.size(); ++i) {
      // Halves are exact, so that a mean has one right answer.
      if (o.backbone == Backbone::mean) {
        ASSERT_EQ(found.backbone[i], wanted.backbone[i]) << "element " << i;
      } else {
        ASSERT_NEAR(found.backbone[i], wanted.backbone[i],
                    std::numeric_limits<float>::epsilon() * std::abs(wanted.backbone[i]));
      }
    }
  }
  // The products, of what is on disk.
  for (Index i = 0; i < o.count; ++i) {
    for (Index j = 0; j < o.count; ++j) {
      double const dense = slow_cosine(ffn_direction(g.info, g.model(i), o.similarity),
                                       ffn_direction(g.info, g.model(j), o.similarity));
      EXPECT_NEAR(g.family.similarity[static_cast<std::size_t>(i * o.count + j)], dense, kDouble);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpandFfnCases,
                         ::testing::Combine(::testing::Values(Strategy::genetic, Strategy::random),
                                            ::testing::Values(Similarity::task_vector, Similarity::weights),
                                            ::testing::Bool(),
                                            ::testing::Values(Backbone::mean, Backbone::weighted)));

TEST(ExpandFfn, MasksDropTheirShareAndBackbonesAreNotMasked) {
  ExpandOptions o = ffn_options(3);
  o.drop = 0.5;
  GrownFfn const g(some_models(2), o);
  Whole const child = g.model(2), base = base_of(g.info), first = g.model(0), second = g.model(1);
  Index kept = 0, all = 0, still = 0;
  for (auto const& t : g.table.tensors()) {
    bool const expert = t.group == Group::expert;
    for (auto i = static_cast<std::size_t>(t.offset); i < static_cast<std::size_t>(t.offset + t.size());
         ++i) {
      if (!expert) {
        // Both parents moved every element of the backbone the same way, nearly always.
        still += child.backbone[i] == base.backbone[i] ? 1 : 0;
        continue;
      }
      ++all;
      kept += child.expert[i] == base.expert[i] ? 0 : 1;
    }
  }
  double const sigma = std::sqrt(0.75 * 0.25 / static_cast<double>(all));
  EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(all), 0.75, 5 * sigma);
  EXPECT_LT(still, g.table.count(Group::backbone) / 100);
  Child const& c = g.family.children[0];
  EXPECT_LT(c.masked.first, c.unmasked.first);
  EXPECT_LT(c.masked.second, c.unmasked.second);
}

TEST(ExpandFfn, PiecesOfAnySizeGiveTheSameBits) {
  ExpandOptions o = ffn_options(6);
  auto const models = some_models(3);
  GrownFfn const whole(models, o);
  for (Index const piece : {1, 25, 120}) {
    o.piece_elements = piece;
    GrownFfn const pieces(models, o);
    for (Index i = 3; i < 6; ++i) EXPECT_EQ(pieces.model(i), whole.model(i));
    EXPECT_EQ(pieces.family.similarity, whole.family.similarity);
  }
}

TEST(ExpandFfn, TheBaseIsNeverAParent) {
  auto models = some_models(3);
  models.insert(models.begin(), base_of(tiny_ffn_info()));
  for (auto const strategy : {Strategy::genetic, Strategy::random}) {
    ExpandOptions o = ffn_options(9);
    o.strategy = strategy;
    o.base_is = 0;
    GrownFfn g(models, o);
    Family const copied = g.family;
    for (auto const& c : copied.children) EXPECT_NE(c.first, 0);
    EXPECT_TRUE(std::isnan(copied.similarity[1]));
    // The file of the start may itself be the expert.
    g.files[0] = kStart;
    g.grow(o);
    expect_same(g.family, copied, 0.0);
  }
  // An expert without a direction would have to be compared.
  EXPECT_THROW(GrownFfn(models, ffn_options(5)), AgreedError);
}

TEST(ExpandFfn, AFileOfAChildDescribesItselfLikeOneOfAParent) {
  GrownFfn const g(some_models(2), ffn_options(3));
  H5File const parent = H5File::open(g.path(0), nullptr), child = H5File::open(g.path(2), nullptr);
  auto const names = parent.attributes("/");
  for (auto const& name : names) EXPECT_TRUE(child.has_attribute("/", name)) << name;
  EXPECT_EQ(child.attributes("/").size(), names.size() + 1);  // ancestry
  EXPECT_EQ(child.names("expert"), parent.names("expert"));
  EXPECT_EQ(child.names("backbone"), parent.names("backbone"));
  ModelFileInfo const info = read_model_info(g.path(2), nullptr);
  EXPECT_EQ(info.kind, "expert");
  EXPECT_EQ(info.model, g.info.model);
  EXPECT_EQ(info.expert, g.info.expert);
  EXPECT_EQ(info.base_hash, g.info.base_hash);
}

TEST(ExpandFfn, KeepsChildrenOfTheSameAncestryAlone) {
  ExpandOptions o = ffn_options(6);
  GrownFfn g(some_models(3), o);
  Family const before = g.family;
  auto const json = [&](Family const& f) {
    return upcycle::family_json(f, "genetic", "task_vector", o.drop);
  };
  Whole const last = g.model(5);
  auto const kept = std::filesystem::last_write_time(g.path(3));
  std::filesystem::remove(g.path(5));
  g.grow(o);
  EXPECT_EQ(std::filesystem::last_write_time(g.path(3)), kept);
  EXPECT_EQ(g.model(5), last);
  EXPECT_EQ(json(g.family), json(before));
  // Another way to merge backbones makes other children.
  o.backbone = Backbone::weighted;
  g.grow(o);
  EXPECT_NE(std::filesystem::last_write_time(g.path(3)), kept);
  EXPECT_NE(g.model(3).backbone, last.backbone);
}

TEST(RowBlocks, PiecesHoldEveryRowOnceInTheOrderOfBlocks) {
  ModelConfig model = tiny_model(false, 2);
  model.ffn = 30000;  // some blocks a tensor
  ModelFileInfo const info = ffn_info(model);
  ParameterTable const table = table_of(info);
  for (auto const group : {Group::expert, Group::backbone}) {
    RowBlocks const blocks(table, group);
    for (Index const ranks : {1, 2, 3, 50}) {
      for (Index const elements : {Index{100}, Index{70000}, Index{1} << 30}) {
        std::vector<Piece> all;
        for (Index rank = 0; rank < ranks; ++rank) {
          Slab const mine = row_share(std::vector<Index>{blocks.count()}, rank, ranks);
          for (auto const& p : blocks.pieces(mine.offset[0], mine.count[0], elements)) {
            EXPECT_TRUE(p.size() <= elements || p.rows == 1);
            EXPECT_GE(p.block(0), mine.offset[0]);
            EXPECT_LT(p.block(p.rows - 1), mine.offset[0] + mine.count[0]);
            all.push_back(p);
          }
        }
        auto next = all.begin();
        Index number = 0;
        for (auto const& t : table.tensors()) {
          if (t.group != group) continue;
          Index row = 0;
          for (; next != all.end() && next->tensor == &t; ++next) {
            EXPECT_EQ(next->row, row);
            EXPECT_EQ(next->number, number);
            row += next->rows;
          }
          EXPECT_EQ(row * (t.size() / t.shape[group == Group::expert ? 1 : 0]), t.size()) << t.name;
          ++number;
        }
        EXPECT_EQ(next, all.end());
      }
    }
  }
  EXPECT_GT(RowBlocks(table, Group::expert).count(), 4);
}

}  // namespace
}  // namespace upit::test
