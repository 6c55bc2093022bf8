// SPDX-License-Identifier: Apache-2.0
// Tests stage 2 against an expansion by dense products in double, and its rules about parents.
#include "upit/upcycle/expand.hpp"
#include "upit/kernels/row_products.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "unit/io/scratch.hpp"
#include "unit/upcycle/expand_support.hpp"

namespace upit::test {
namespace {

// Sums of some 10^3 double products; the blend without masks is rounded to float once.
constexpr double kDouble = 1e-12, kFloat = 1e-6;

struct Grown {
  Scratch scratch;
  ModelFileInfo info = tiny_info();
  ParameterTable table = table_of(info);
  Communicator world = Communicator::world();
  std::vector<std::string> files;
  Family family;

  Grown(std::vector<Values> const& experts, ExpandOptions const& options) {
    files = write_experts(world, scratch.path(), info, experts);
    grow(options);
  }
  void grow(ExpandOptions const& options) {
    family = upcycle::grow_family(world, scratch.path(), files, info, options);
  }
  Values child(Index number) const {
    return read_expert(scratch.path(family.names.at(static_cast<std::size_t>(number))), table);
  }
  std::set<std::pair<Index, Index>> pairs() const {
    std::set<std::pair<Index, Index>> all;
    for (auto const& c : family.children) all.emplace(c.first, c.second);
    return all;
  }
};

ExpandOptions options_for(Index count) {
  ExpandOptions o;
  o.count = count;
  o.seed = kSeed;
  o.reads = "test";
  return o;
}

std::vector<Values> some_experts(Index count) { return tuned_experts(table_of(tiny_info()), count); }

TEST(RowProducts, AgainstPlainLoops) {
  for (Index const columns : {0, 1, 7, 8, 9, 37}) {
    Index const P = 3, R = 2, Q = 3;
    View3<float> const x("x", P, R, columns);
    auto const hx = Kokkos::create_mirror_view(x);
    RandomKey const key = random_key(1, "rows");
    for (Index i = 0; i < P * R * columns; ++i) {
      hx.data()[i] = static_cast<float>(random_normal(key, static_cast<std::uint64_t>(i)));
    }
    Kokkos::deep_copy(x, hx);
    View2<Index> const pairs("pairs", Q, 2);
    std::vector<Index> const chosen = {0, 0, 0, 2, 2, 1};
    put_all(pairs.data(), chosen);
    View3<double> const all("all", Q, R, R), diagonal("diagonal", Q, R, 1);
    kernels::row_products(Exec(), x, pairs, all);
    kernels::row_products(Exec(), x, pairs, diagonal);
    auto const found = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), all),
               own = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), diagonal);
    for (Index q = 0; q < Q; ++q) {
      for (Index a = 0; a < R; ++a) {
        EXPECT_EQ(own(q, a, 0), found(q, a, a));
        for (Index b = 0; b < R; ++b) {
          double sum = 0.0;
          for (Index k = 0; k < columns; ++k) {
            sum += static_cast<double>(hx(chosen[at(2 * q)], a, k)) *
                   static_cast<double>(hx(chosen[at(2 * q + 1)], b, k));
          }
          EXPECT_NEAR(found(q, a, b), sum, kDouble);
        }
      }
    }
  }
}

TEST(SimilarityTable, EqualsDenseProducts) {
  auto const experts = some_experts(4);
  for (auto const kind : {Similarity::task_vector, Similarity::weights}) {
    ExpandOptions o = options_for(4);
    o.similarity = kind;
    Grown const g(experts, o);
    upcycle::SimilarityTable similar(g.world, g.table, kind);
    similar.add({g.scratch.path(g.files[0]), g.scratch.path(g.files[1])});
    similar.add({g.scratch.path(g.files[2]), g.scratch.path(g.files[3])});
    for (Index i = 0; i < 4; ++i) {
      for (Index j = 0; j < 4; ++j) {
        auto const& x = experts[static_cast<std::size_t>(i)];
        auto const& y = experts[static_cast<std::size_t>(j)];
        double const dense = slow_cosine(direction(g.info, x, kind), direction(g.info, y, kind));
        EXPECT_NEAR(similar.cosine(i, j), dense, kDouble);
        // Added at once or one after another, on one side or the other: the same bits.
        EXPECT_EQ(g.family.similarity[static_cast<std::size_t>(4 * i + j)], similar.cosine(j, i));
      }
    }
  }
}

class ExpandCases : public ::testing::TestWithParam<std::tuple<Strategy, Similarity, bool>> {};

TEST_P(ExpandCases, EqualsTheSlowExpansion) {
  ExpandOptions o = options_for(9);
  std::tie(o.strategy, o.similarity, o.reuse_pairs) = GetParam();
  auto const experts = some_experts(4);
  Grown const g(experts, o);
  Family const slow = slow_family(g.info, experts, o);
  expect_same(g.family, slow, kFloat);

  // Each child from its parents as they are on disk: one rounding to float on either side.
  for (auto const& c : g.family.children) {
    Values const found = g.child(c.number);
    Values const wanted = slow_merge(g.info, g.child(c.first), g.child(c.second), c, o.drop);
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], wanted[i], std::numeric_limits<float>::epsilon() * (1e-3F + std::abs(wanted[i])))
          << "child " << c.number << " element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ExpandCases,
                         ::testing::Combine(::testing::Values(Strategy::genetic, Strategy::random),
                                            ::testing::Values(Similarity::task_vector, Similarity::weights),
                                            ::testing::Bool()));

TEST(Expand, PiecesOfAnySizeGiveTheSameBits) {
  ExpandOptions o = options_for(6);
  auto const experts = some_experts(3);
  Grown const whole(experts, o);
  for (Index const piece : {1, 25}) {
    o.piece_elements = piece;
    Grown const pieces(experts, o);
    for (Index i = 3; i < 6; ++i) EXPECT_EQ(pieces.child(i), whole.child(i));
  }
}

TEST(Expand, OppositeExpertsMateAgainUnlessPairsAreUsedOnce) {
  auto experts = some_experts(3);
  experts[2] = experts[0];
  scale_b(table_of(tiny_info()), experts[2], -1.0F);  // cosine -1, below all that follows
  ExpandOptions o = options_for(8);
  Grown const again(experts, o);
  EXPECT_EQ(again.pairs(), (std::set<std::pair<Index, Index>>{{0, 2}}));
  EXPECT_EQ(again.family.children.size(), 5U);
  EXPECT_DOUBLE_EQ(again.family.children[0].similarity, -1.0);
  o.reuse_pairs = false;
  EXPECT_EQ(Grown(experts, o).pairs().size(), 5U);
}

TEST(Expand, TheBaseIsNeverAParent) {
  auto experts = some_experts(4);
  experts[1] = start_values(table_of(tiny_info()));
  for (auto const strategy : {Strategy::genetic, Strategy::random}) {
    for (auto const kind : {Similarity::task_vector, Similarity::weights}) {
      ExpandOptions o = options_for(12);
      o.strategy = strategy;
      o.similarity = kind;
      o.base_is = 1;
      Grown const g(experts, o);
      for (auto const& c : g.family.children) {
        EXPECT_NE(c.first, 1);
        EXPECT_NE(c.second, 1);
      }
      double const beside_base = g.family.similarity[1];
      EXPECT_EQ(std::isnan(beside_base), kind == Similarity::task_vector);
    }
  }
}

TEST(Expand, EqualExpertsHaveCosineOneAndTheLowerPairWins) {
  auto const one = some_experts(1)[0];
  ExpandOptions o = options_for(4);
  o.drop = 0.0;
  Grown const g({one, one, one}, o);
  for (Index i = 0; i < 3; ++i) {
    for (Index j = 0; j < 3; ++j) EXPECT_EQ(g.family.similarity[static_cast<std::size_t>(4 * i + j)], 1.0);
  }
  EXPECT_EQ(g.pairs(), (std::set<std::pair<Index, Index>>{{0, 1}}));
  Values const child = g.child(3);
  for (std::size_t i = 0; i < child.size(); ++i) {
    // w x + (1 - w) x in double, rounded to float once
    EXPECT_NEAR(child[i], one[i], std::numeric_limits<float>::epsilon() * std::abs(one[i]));
  }
  EXPECT_NEAR(g.family.children[0].unmasked.first, 1.0, kFloat);
}

TEST(Expand, MasksLowerTheCosineOfAChild) {
  Grown const g(some_experts(2), options_for(3));
  Child const& c = g.family.children[0];
  EXPECT_LT(c.masked.first, c.unmasked.first);
  EXPECT_LT(c.masked.second, c.unmasked.second);
}

TEST(Expand, AFileOfAChildDescribesItselfLikeOneOfAParent) {
  Grown const g(some_experts(2), options_for(3));
  H5File const parent = H5File::open(g.scratch.path(g.files[0]), nullptr);
  H5File const child = H5File::open(g.scratch.path(g.family.names[2]), nullptr);
  auto names = parent.attributes("/");
  for (auto const& name : names) EXPECT_TRUE(child.has_attribute("/", name)) << name;
  EXPECT_EQ(child.attributes("/").size(), names.size() + 1);  // ancestry
  EXPECT_EQ(child.names("expert"), parent.names("expert"));
  ModelFileInfo const info = read_model_info(g.scratch.path(g.family.names[2]), nullptr);
  EXPECT_EQ(info.kind, "expert");
  EXPECT_EQ(info.model, g.info.model);
  EXPECT_EQ(info.expert, g.info.expert);
  EXPECT_EQ(info.base_hash, g.info.base_hash);
  EXPECT_EQ(info.tokenizer, g.info.tokenizer);
  EXPECT_EQ(info.prompt, g.info.prompt);
  EXPECT_EQ(info.deck, g.info.deck);
}

TEST(Expand, KeepsChildrenOfTheSameAncestryAlone) {
  ExpandOptions o = options_for(6);
  Grown g(some_experts(3), o);
  Family const before = g.family;
  auto const written = [&](Index i) {
    return std::filesystem::last_write_time(g.scratch.path(before.names[static_cast<std::size_t>(i)]));
  };
  Values const last = g.child(5);
  auto const kept = written(3);
  std::filesystem::remove(g.scratch.path(before.names[5]));
  g.grow(o);
  EXPECT_EQ(written(3), kept);
  EXPECT_EQ(g.child(5), last);
  EXPECT_EQ(upcycle::family_json(g.family, "genetic", "task_vector", o.drop),
            upcycle::family_json(before, "genetic", "task_vector", o.drop));
  // The same names with other contents behind them.
  o.reads = "something else";
  g.grow(o);
  EXPECT_NE(written(3), kept);
  // The ancestry of grandchildren follows that of their parents.
  Child c;
  EXPECT_NE(upcycle::child_ancestry(o, c, "a", "b"), upcycle::child_ancestry(o, c, "a", "c"));
}

TEST(Expand, NothingToDo) {
  for (auto const strategy : {Strategy::genetic, Strategy::none}) {
    ExpandOptions o = options_for(1);
    o.strategy = strategy;
    Grown const g(some_experts(1), o);
    EXPECT_TRUE(g.family.children.empty());
    EXPECT_EQ(g.family.names, g.files);
    EXPECT_EQ(g.family.similarity, std::vector<double>{1.0});
  }
}

TEST(Expand, FamilyIsWrittenDown) {
  auto experts = some_experts(3);
  experts[0] = start_values(table_of(tiny_info()));
  ExpandOptions o = options_for(5);
  o.base_is = 0;
  Grown const g(experts, o);
  auto const j = nlohmann::json::parse(upcycle::family_json(g.family, "genetic", "task_vector", o.drop));
  EXPECT_EQ(j.at("experts").size(), 5U);
  EXPECT_EQ(j.at("base"), "prepare/expert_00.h5");
  ASSERT_EQ(j.at("children").size(), 2U);
  EXPECT_EQ(j.at("children")[0].at("parents"),
            (nlohmann::json{"prepare/expert_01.h5", "prepare/expert_02.h5"}));
  EXPECT_EQ(j.at("children")[0].at("weight_of_first"), g.family.children[0].weight);
  EXPECT_EQ(j.at("children")[1].at("expert"), "expand/expert_04.h5");
  EXPECT_TRUE(j.at("similarity")[0][3].is_null());
  EXPECT_EQ(j.at("similarity")[1][2], g.family.similarity[7]);

  std::istringstream csv(upcycle::similarity_csv(g.family));
  std::vector<std::string> lines;
  for (std::string line; std::getline(csv, line);) lines.push_back(line);
  ASSERT_EQ(lines.size(), 6U);
  for (auto const& line : lines) EXPECT_EQ(std::count(line.begin(), line.end(), ','), 5);
  EXPECT_TRUE(lines[4].starts_with("expand/expert_03.h5,nan,"));
  auto const text = upcycle::family_table(g.family).text();
  EXPECT_NE(text.find("1, 2"), std::string::npos);
}

}  // namespace
}  // namespace upit::test
