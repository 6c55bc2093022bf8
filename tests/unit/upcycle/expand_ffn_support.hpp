// SPDX-License-Identifier: Apache-2.0
// Owns small files of FFN experts for tests of the expansion, and the expansion done slowly.
#pragma once

#include <string>
#include <vector>

#include "support/tiny_data.hpp"
#include "support/values.hpp"
#include "unit/upcycle/expand_support.hpp"

namespace upit::test {

/// A whole model in memory, padding included.
struct Whole {
  Values backbone, expert;
  bool operator==(Whole const&) const = default;
};

inline ModelFileInfo ffn_info(ModelConfig const& model) {
  ModelFileInfo info = expert_info(model, 0);
  info.expert.kind = ExpertKind::ffn;
  return info;
}

inline ModelFileInfo tiny_ffn_info() { return ffn_info(tiny_model(false, 2)); }

inline Whole whole_of(Weights<float> const& w) { return {flat(w.backbone), flat(w.expert)}; }

inline Weights<float> weights_of(ParameterTable const& table, Whole const& whole) {
  Weights<float> const w(table);
  put_all(w.backbone.data(), whole.backbone);
  put_all(w.expert.data(), whole.expert);
  return w;
}

inline Whole base_of(ModelFileInfo const& info) { return whole_of(random_weights<float>(table_of(info), 3)); }

/// The base, moved a little as by training: the angles between experts come from what each moved by itself.
inline Whole tuned_from(ModelFileInfo const& info, Whole const& base, Index expert) {
  ParameterTable const table = table_of(info);
  Whole out = base;
  for (auto const& t : table.tensors()) {
    RandomKey const common = random_key(5, "tuned", -1, t.offset, static_cast<int>(t.group));
    RandomKey const own = random_key(5, "tuned", expert, t.offset, static_cast<int>(t.group));
    Values& values = t.group == Group::expert ? out.expert : out.backbone;
    for (Index i = 0; i < t.size(); ++i) {
      auto const at = static_cast<std::uint64_t>(i);
      values[static_cast<std::size_t>(t.offset + i)] +=
          static_cast<float>(0.02 * random_normal(common, at) + 0.01 * random_normal(own, at));
    }
  }
  return out;
}

inline std::vector<Whole> tuned_models(ModelFileInfo const& info, Index count) {
  Whole const base = base_of(info);
  std::vector<Whole> models;
  for (Index e = 0; e < count; ++e) models.push_back(tuned_from(info, base, e));
  return models;
}

inline constexpr char const* kStart = "prepare/checkpoint_00.h5";

/// Writes the base and prepare/expert_NN.h5 below `root`; returns the names of the experts.
inline std::vector<std::string> write_models(Communicator const& comm, std::string const& root,
                                             ModelFileInfo const& info, std::vector<Whole> const& models) {
  comm.agree_on_root([&] {
    std::filesystem::create_directories(root + "/prepare");
    std::filesystem::create_directories(root + "/expand");
  });
  ParameterTable const table = table_of(info);
  auto const write = [&](std::string const& name, Whole const& model) {
    write_model_file(root + "/" + name, comm, info, table, weights_of(table, model), {true, true, false});
  };
  write(kStart, base_of(info));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < models.size(); ++i) {
    names.push_back("prepare/expert_0" + std::to_string(i) + ".h5");
    write(names.back(), models[i]);
  }
  return names;
}

inline Whole read_whole(std::string const& path, ParameterTable const& table) {
  Weights<float> const w(table);
  read_model_file(path, nullptr, table, w, {true, true, false});
  return whole_of(w);
}

/// All FFN values, or what they moved by, without padding.
inline std::vector<double> ffn_direction(ModelFileInfo const& info, Whole const& model, Similarity kind) {
  ParameterTable const table = table_of(info);
  Whole const base = base_of(info);
  std::vector<double> out;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    for (auto i = static_cast<std::size_t>(t.offset); i < static_cast<std::size_t>(t.offset + t.size());
         ++i) {
      double const origin = kind == Similarity::task_vector ? static_cast<double>(base.expert[i]) : 0.0;
      out.push_back(static_cast<double>(model.expert[i]) - origin);
    }
  }
  return out;
}

/// FFNs by the masks' definition, backbones by a mean.
inline Whole slow_ffn_merge(ModelFileInfo const& info, Whole const& first, Whole const& second,
                            Child const& child, double drop, upcycle::Backbone backbone) {
  double const w = backbone == upcycle::Backbone::mean ? 0.5 : child.weight;
  Whole out = first;
  for (std::size_t i = 0; i < out.backbone.size(); ++i) {
    out.backbone[i] = static_cast<float>(w * static_cast<double>(first.backbone[i]) +
                                         (1.0 - w) * static_cast<double>(second.backbone[i]));
  }
  out.expert = slow_merge(table_of(info), base_of(info).expert, first.expert, second.expert, child, drop);
  return out;
}

inline Family slow_ffn_family(ModelFileInfo const& info, std::vector<Whole> const& models,
                              ExpandOptions const& o) {
  return slow_family(
      models, o,
      [&](Whole const& a, Whole const& b, Child const& c, double drop) {
        return slow_ffn_merge(info, a, b, c, drop, o.backbone);
      },
      [&](Whole const& x) { return ffn_direction(info, x, o.similarity); });
}

inline ExpandOptions ffn_options(Index count) {
  ExpandOptions o;
  o.count = count;
  o.seed = kSeed;
  o.start = kStart;
  o.reads = "test";
  return o;
}

}  // namespace upit::test
