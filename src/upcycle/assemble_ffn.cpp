// SPDX-License-Identifier: Apache-2.0
// Owns the streams of stage 4 for FFN experts: rows of expert files in, rows of the MoE model out.
#include "upit/upcycle/assemble_ffn.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"
#include "upit/io/hdf5.hpp"

namespace upit::upcycle {
namespace {

/// Calls work(first, count) on this rank's pieces of `rows`, equally often on every rank.
template <class Work>
void for_pieces(Communicator const& comm, Index rows, Index row_elements, Index piece_elements,
                Work const& work) {
  Index const piece = std::max<Index>(1, piece_elements / std::max<Index>(1, row_elements));
  for (Index begin = 0; begin < rows; begin += piece * comm.size()) {
    Index const first = std::min(rows, begin + piece * comm.rank());
    work(first, std::min(piece, rows - first));
  }
}

std::vector<H5File> open_all(Communicator const& world, std::vector<std::string> const& paths) {
  std::vector<H5File> files;
  for (auto const& path : paths) files.push_back(H5File::open(path, &world, Transfer::independent));
  return files;
}

/// Elements below the first axis, or below the first two.
Index row_size(Tensor const& t, std::size_t axes) {
  Index size = 1;
  for (std::size_t i = axes; i < t.shape.size(); ++i) size *= t.shape[i];
  return size;
}

class Stacker {
 public:
  Stacker(Communicator const& world, std::string const& path, FfnStack const& stack, Index piece_elements)
      : world_(&world),
        stack_(&stack),
        piece_(piece_elements),
        experts_(open_all(world, stack.experts)),
        backbones_(open_all(world, stack.backbones)),
        out_(H5File::create(path, &world, Transfer::independent)) {}

  void run() {
    ProfilingRegion const region("upit::stack_experts");
    write_info(out_, stack_->info);
    ParameterTable const table(stack_->info.model, stack_->info.expert);
    for (auto const& t : table.tensors()) {
      if (t.group == Group::backbone) average(t);
      if (t.group == Group::expert) stack_experts(t);
      if (t.group == Group::router) stack_vectors(t);
    }
    for (auto& file : experts_) file.close();
    for (auto& file : backbones_) file.close();
    out_.close();
  }

 private:
  /// Files are read independently, so that what is wrong with one is told together here.
  void require_all(std::vector<H5File> const& files, std::string const& name,
                   std::vector<Index> const& shape) const {
    world_->agree([&] {
      for (auto const& file : files) file.require_dataset<float>(name, shape);
    });
  }

  void average(Tensor const& t) {
    std::string const name = "backbone/" + t.name;
    require_all(backbones_, name, t.shape);
    out_.create_dataset<float>(name, t.shape);
    Index const row = row_size(t, 1);
    for_pieces(*world_, t.shape[0], row, piece_, [&](Index first, Index count) {
      auto const n = static_cast<std::size_t>(count * row);
      values_.resize(n);
      sum_.assign(n, 0.0);
      for (std::size_t i = 0; i < backbones_.size(); ++i) {
        double const weight = stack_->backbone_weights[i];
        if (weight == 0.0) continue;
        backbones_[i].read<float>(name, std::span<float>(values_), {{first}, {count}});
        for (std::size_t k = 0; k < n; ++k) sum_[k] += weight * static_cast<double>(values_[k]);
      }
      for (std::size_t k = 0; k < n; ++k) values_[k] = static_cast<float>(sum_[k]);
      out_.write<float>(name, std::span<float const>(values_), {{first}, {count}});
    });
  }

  void stack_experts(Tensor const& t) {
    std::string const name = "expert/" + t.name;
    std::vector<Index> single = t.shape;
    single[0] = 1;
    require_all(experts_, name, single);
    out_.create_dataset<float>(name, t.shape);
    Index const row = row_size(t, 2);
    for (Index e = 0; e < t.shape[0]; ++e) {
      for_pieces(*world_, t.shape[1], row, piece_, [&](Index first, Index count) {
        values_.resize(static_cast<std::size_t>(count * row));
        experts_[static_cast<std::size_t>(e)].read<float>(name, std::span<float>(values_),
                                                          {{0, first}, {1, count}});
        out_.write<float>(name, std::span<float const>(values_), {{e, first}, {1, count}});
      });
    }
  }

  void stack_vectors(Tensor const& t) {
    std::string const name = "router/" + t.name;
    Index const width = t.shape[1];
    if (stack_->has_vectors) require_all(experts_, name, {1, width});
    out_.create_dataset<float>(name, t.shape);
    for_pieces(*world_, t.shape[0], width, width, [&](Index first, Index count) {
      values_.resize(static_cast<std::size_t>(count * width));
      for (Index e = first; e < first + count; ++e) {
        std::span<float> const row(values_.data() + (e - first) * width, static_cast<std::size_t>(width));
        if (stack_->has_vectors) {
          experts_[static_cast<std::size_t>(e)].read<float>(name, row, {{0}, {1}});
        } else {
          for (Index c = 0; c < width; ++c) {
            row[static_cast<std::size_t>(c)] =
                static_cast<float>(random_router_weight(stack_->seed, t.layer, e, c));
          }
        }
      }
      out_.write<float>(name, std::span<float const>(values_), {{first}, {count}});
    });
  }

  Communicator const* world_;
  FfnStack const* stack_;
  Index piece_;
  std::vector<H5File> experts_, backbones_;
  H5File out_;
  std::vector<float> values_;
  std::vector<double> sum_;
};

}  // namespace

std::vector<double> backbone_weights(std::string const& mode, Index n, Index m) {
  require(mode == "all" || mode == "checkpoints",
          fmt::format("upcycle.backbone: found \"{}\", allowed: \"all\", \"checkpoints\"", mode));
  Index const counted = mode == "all" ? n : std::min(n, m);
  std::vector<double> weights(static_cast<std::size_t>(n), 0.0);
  std::fill_n(weights.begin(), counted, 1.0 / static_cast<double>(counted));
  return weights;
}

std::vector<double> checkpoint_weights(std::vector<double> const& weights, Index m, std::string const& family,
                                       bool weighted) {
  std::vector<double> out = weights;
  if (!family.empty()) {
    try {
      auto const j = nlohmann::json::parse(family);
      auto const names = j.at("experts").get<std::vector<std::string>>();
      auto const number = [&](nlohmann::json const& name) {
        auto const it = std::find(names.begin(), names.end(), name.get<std::string>());
        require(it != names.end(), fmt::format("family.json names no expert {}", name.dump()));
        return static_cast<std::size_t>(it - names.begin());
      };
      auto const& children = j.at("children");
      // Children come after their parents, so that from the last to the first all weight moves to ancestors.
      for (auto c = children.rbegin(); c != children.rend(); ++c) {
        std::size_t const child = number(c->at("expert"));
        double const w = weighted ? c->at("weight_of_first").get<double>() : 0.5;
        out.at(number(c->at("parents").at(0))) += w * out.at(child);
        out.at(number(c->at("parents").at(1))) += (1.0 - w) * out.at(child);
        out.at(child) = 0.0;
      }
    } catch (nlohmann::json::exception const& error) {
      fail(fmt::format("family.json cannot be read: {}", error.what()));
    }
  }
  out.resize(static_cast<std::size_t>(m));
  return out;
}

void write_ffn_moe(Communicator const& world, std::string const& path, FfnStack const& stack,
                   Index piece_elements) {
  expect(
      stack.experts.size() == stack.backbones.size() && stack.experts.size() == stack.backbone_weights.size(),
      "every expert has a backbone and its weight");
  Stacker(world, path, stack, piece_elements).run();
}

}  // namespace upit::upcycle
