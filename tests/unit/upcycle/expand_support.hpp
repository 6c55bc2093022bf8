// SPDX-License-Identifier: Apache-2.0
// Owns small expert files for tests of the expansion, and the expansion done slowly: explicit dense products
// in double, whole experts in memory.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "support/tiny_model.hpp"
#include "upit/core/random.hpp"
#include "upit/train/model_file.hpp"
#include "upit/upcycle/expand.hpp"

namespace upit::test {

using upcycle::Child;
using upcycle::ExpandOptions;
using upcycle::Family;
using upcycle::Similarity;
using upcycle::Strategy;
using Values = std::vector<float>;  // an expert's buffer, padding included

inline constexpr std::uint64_t kSeed = 11;

inline ModelFileInfo expert_info(ModelConfig const& model, Index rank) {
  ModelFileInfo info;
  info.kind = "expert";
  info.model = model;
  info.expert.count = 1;
  info.expert.rank = rank;
  info.expert.alpha = 6.0;
  info.base_hash = "0123456789abcdef";
  info.tokenizer = "bytes";
  info.prompt = "plain";
  info.deck = "[run]\nseed = 11\n";
  return info;
}

inline ModelFileInfo tiny_info() { return expert_info(tiny_model(true, 2), 3); }

inline ParameterTable table_of(ModelFileInfo const& info) { return {info.model, info.expert}; }

/// A0 and zero.
inline Values start_values(ParameterTable const& table) {
  Weights<float> w;
  w.expert = View1<float>("expert", table.extent(Group::expert));
  initialise_lora(table, kSeed, w);
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), w.expert);
  return {host.data(), host.data() + host.extent(0)};
}

/// The start, moved as by training: A a little, B from zero.
inline Values tuned_values(ParameterTable const& table, Index expert) {
  Values v = start_values(table);
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    RandomKey const key = random_key(5, "tuned", expert, t.offset);
    for (Index i = 0; i < t.size(); ++i) {
      v[static_cast<std::size_t>(t.offset + i)] +=
          static_cast<float>(0.2 * random_normal(key, static_cast<std::uint64_t>(i)));
    }
  }
  return v;
}

inline void scale_b(ParameterTable const& table, Values& values, float factor) {
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert || !t.name.ends_with("_b")) continue;
    for (Index i = 0; i < t.size(); ++i) values[static_cast<std::size_t>(t.offset + i)] *= factor;
  }
}

inline Weights<float> expert_weights(Values const& values) {
  Weights<float> w;
  w.expert = View1<float>("expert", values.size());
  put_all(w.expert.data(), values);
  return w;
}

inline Values read_expert(std::string const& path, ParameterTable const& table) {
  Weights<float> w;
  w.expert = View1<float>("expert", table.extent(Group::expert));
  read_model_file(path, nullptr, table, w, {false, true, false});
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), w.expert);
  return {host.data(), host.data() + host.extent(0)};
}

/// Writes prepare/expert_NN.h5 below `root`; returns the names.
inline std::vector<std::string> write_experts(Communicator const& comm, std::string const& root,
                                              ModelFileInfo const& info, std::vector<Values> const& experts) {
  comm.agree_on_root([&] {
    std::filesystem::create_directories(root + "/prepare");
    std::filesystem::create_directories(root + "/expand");
  });
  ParameterTable const table = table_of(info);
  std::vector<std::string> names;
  for (std::size_t i = 0; i < experts.size(); ++i) {
    names.push_back("prepare/expert_0" + std::to_string(i) + ".h5");
    write_model_file(root + "/" + names.back(), comm, info, table, expert_weights(experts[i]),
                     {false, true, false});
  }
  return names;
}

inline std::vector<Values> tuned_experts(ParameterTable const& table, Index count) {
  std::vector<Values> experts;
  for (Index e = 0; e < count; ++e) experts.push_back(tuned_values(table, e));
  return experts;
}

/// The vector whose cosine is taken: all dense products (alpha/r) B A, or all of A and B.
inline std::vector<double> direction(ModelFileInfo const& info, Values const& values, Similarity kind) {
  ParameterTable const table = table_of(info);
  std::vector<double> out;
  if (kind == Similarity::weights) {
    for (auto const& t : table.tensors()) {
      if (t.group != Group::expert) continue;
      for (Index i = 0; i < t.size(); ++i) out.push_back(values[static_cast<std::size_t>(t.offset + i)]);
    }
    return out;
  }
  Index const R = info.expert.rank;
  auto const product = [&](Tensor const& a, Index first_row, Tensor const& b) {
    float const* const pa = values.data() + a.offset + first_row * a.shape[2];
    float const* const pb = values.data() + b.offset;
    for (Index o = 0; o < b.shape[2]; ++o) {
      for (Index i = 0; i < a.shape[2]; ++i) {
        double sum = 0.0;
        for (Index r = 0; r < R; ++r) {
          sum += static_cast<double>(pb[r * b.shape[2] + o]) * static_cast<double>(pa[r * a.shape[2] + i]);
        }
        out.push_back(info.expert.scale() * sum);
      }
    }
  };
  for (int l = 0; l < static_cast<int>(info.model.layers); ++l) {
    product(table.find(l, "lora.gate_up_a"), 0, table.find(l, "lora.gate_b"));
    product(table.find(l, "lora.gate_up_a"), R, table.find(l, "lora.up_b"));
    product(table.find(l, "lora.down_a"), 0, table.find(l, "lora.down_b"));
  }
  return out;
}

inline double slow_cosine(std::vector<double> const& x, std::vector<double> const& y) {
  double xy = 0.0, xx = 0.0, yy = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) xy += x[i] * y[i], xx += x[i] * x[i], yy += y[i] * y[i];
  return xy / (std::sqrt(xx) * std::sqrt(yy));
}

/// start + w DARE_p(first - start) + (1 - w) DARE_p(second - start), element by element.
inline Values slow_merge(ParameterTable const& table, Values const& start, Values const& first,
                         Values const& second, Child const& child, double drop) {
  Values out(start.size(), 0.0F);
  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    for (Index i = 0; i < t.size(); ++i) {
      auto const at = static_cast<std::size_t>(t.offset + i);
      auto const task = [&](Values const& parent, Index parent_number) {
        RandomKey const key = random_key(kSeed, "dare", child.number, parent_number, number);
        auto const bits = random_bits(key, static_cast<std::uint64_t>(i / 4));
        bool const kept = static_cast<double>(bits.word[i % 4]) >= std::floor(drop * 0x1p32);
        double const d = static_cast<double>(parent[at]) - static_cast<double>(start[at]);
        return kept ? d / (1.0 - drop) : 0.0;
      };
      out[at] = static_cast<float>(static_cast<double>(start[at]) + child.weight * task(first, child.first) +
                                   (1.0 - child.weight) * task(second, child.second));
    }
    ++number;
  }
  return out;
}

/// Of LoRA experts.
inline Values slow_merge(ModelFileInfo const& info, Values const& first, Values const& second,
                         Child const& child, double drop) {
  ParameterTable const table = table_of(info);
  return slow_merge(table, start_values(table), first, second, child, drop);
}

/// The whole expansion, from its definition. `merge(first, second, child, drop)` makes an expert, `along` the
/// vector whose cosine is taken.
template <class Expert, class Merge, class Along>
Family slow_family(std::vector<Expert> experts, ExpandOptions const& o, Merge const& merge,
                   Along const& along) {
  Family family;
  family.checkpoints = static_cast<Index>(experts.size());
  std::set<std::pair<Index, Index>> used;
  auto const of = [&](Index i) { return along(experts[static_cast<std::size_t>(i)]); };
  auto const cosine = [&](Index i, Index j) { return slow_cosine(of(i), of(j)); };
  while (static_cast<Index>(experts.size()) < o.count) {
    Child c;
    c.number = static_cast<Index>(experts.size());
    std::vector<std::tuple<double, Index, Index>> pairs;
    for (Index i = 0; i < c.number; ++i) {
      for (Index j = i + 1; j < c.number; ++j) {
        if (i == o.base_is || j == o.base_is) continue;
        if (!o.reuse_pairs && used.contains({i, j})) continue;
        pairs.emplace_back(o.strategy == Strategy::genetic ? cosine(i, j) : 0.0, i, j);
      }
    }
    auto const chosen =
        o.strategy == Strategy::genetic
            ? *std::min_element(pairs.begin(), pairs.end())
            : pairs[random_below(random_key(o.seed, "expand.pair", c.number), 0, pairs.size())];
    std::tie(std::ignore, c.first, c.second) = chosen;
    used.emplace(c.first, c.second);
    c.similarity = cosine(c.first, c.second);
    c.weight = random_uniform(random_key(o.seed, "expand.weight", c.number), 0);
    Expert const& a = experts[static_cast<std::size_t>(c.first)];
    Expert const& b = experts[static_cast<std::size_t>(c.second)];
    Expert const child = merge(a, b, c, o.drop), whole = merge(a, b, c, 0.0);
    auto const with = [&](Expert const& x, Index parent) { return slow_cosine(along(x), of(parent)); };
    c.masked = {with(child, c.first), with(child, c.second)};
    c.unmasked = {with(whole, c.first), with(whole, c.second)};
    experts.push_back(child);
    family.children.push_back(c);
  }
  for (Index i = 0; i < o.count; ++i) {
    for (Index j = 0; j < o.count; ++j) family.similarity.push_back(cosine(i, j));
  }
  return family;
}

/// Of LoRA experts.
inline Family slow_family(ModelFileInfo const& info, std::vector<Values> const& experts,
                          ExpandOptions const& o) {
  return slow_family(
      experts, o,
      [&](Values const& a, Values const& b, Child const& c, double drop) {
        return slow_merge(info, a, b, c, drop);
      },
      [&](Values const& x) { return direction(info, x, o.similarity); });
}

/// Decisions equal, cosines to `tolerance`.
inline void expect_same(Family const& found, Family const& wanted, double tolerance) {
  ASSERT_EQ(found.children.size(), wanted.children.size());
  for (std::size_t i = 0; i < found.children.size(); ++i) {
    Child const &f = found.children[i], &w = wanted.children[i];
    EXPECT_EQ(f.number, w.number);
    EXPECT_EQ(f.first, w.first) << "child " << f.number;
    EXPECT_EQ(f.second, w.second) << "child " << f.number;
    EXPECT_EQ(f.weight, w.weight);
    EXPECT_NEAR(f.similarity, w.similarity, tolerance);
    EXPECT_NEAR(f.masked.first, w.masked.first, tolerance);
    EXPECT_NEAR(f.masked.second, w.masked.second, tolerance);
    EXPECT_NEAR(f.unmasked.first, w.unmasked.first, tolerance);
    EXPECT_NEAR(f.unmasked.second, w.unmasked.second, tolerance);
  }
  ASSERT_EQ(found.similarity.size(), wanted.similarity.size());
  for (std::size_t i = 0; i < found.similarity.size(); ++i) {
    if (std::isnan(wanted.similarity[i])) {
      EXPECT_TRUE(std::isnan(found.similarity[i])) << "entry " << i;
    } else {
      EXPECT_NEAR(found.similarity[i], wanted.similarity[i], tolerance) << "entry " << i;
    }
  }
}

}  // namespace upit::test
