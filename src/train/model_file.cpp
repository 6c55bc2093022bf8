// SPDX-License-Identifier: Apache-2.0
#include "upit/train/model_file.hpp"

#include <fmt/format.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"
#include "upit/core/version.hpp"
#include "upit/io/hash.hpp"

namespace upit {
namespace {

using nlohmann::json;

/// The value that a word of the description stands for; other words are an error.
template <class E>
E word_of(json const& word, std::map<std::string, E> const& meaning) {
  auto const it = meaning.find(word.get<std::string>());
  require(it != meaning.end(), fmt::format("a model's description holds the unknown word {}", word.dump()));
  return it->second;
}

constexpr char const* kWindow = "window";

/// Bytes of the tensor on disk, whatever part of it is here.
Index whole_bytes(Tensor const& t) {
  Index bytes = static_cast<Index>(sizeof(float));
  for (Index const extent : t.whole_shape()) bytes *= extent;
  return bytes;
}

char const* group_name(Group g) {
  return g == Group::backbone ? "backbone" : g == Group::expert ? "expert" : "router";
}

bool wanted(Groups const& groups, Group g) {
  return g == Group::backbone ? groups.backbone : g == Group::expert ? groups.expert : groups.router;
}

float* data_of(Tensor const& t, Weights<float> const& w) {
  View1<float> const& buffer = t.group == Group::backbone ? w.backbone
                               : t.group == Group::expert ? w.expert
                                                          : w.router;
  return buffer.data() + t.offset;
}

std::string dataset_name(Tensor const& t) { return fmt::format("{}/{}", group_name(t.group), t.name); }

/// The tensor's values in host memory: a copy on a GPU, the values themselves elsewhere.
auto host_values(float* data, Index size) {
  return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), View1<float>(data, size));
}

/// Each rank writes its rows of the tensor: what several ranks hold is shared out among them.
void write_tensor(H5File& file, Communicator const& comm, RankGrid const* grid, std::string const& name,
                  Tensor const& t, float* data) {
  file.create_dataset<float>(name, t.whole_shape());
  bool const part = t.shape.front() != t.rows;
  expect(!part || grid != nullptr, "a tensor of which ranks hold parts is written with their grid");
  // Groups that spread experts over ranks write alike, whether this rank's part happens to be all or nothing.
  bool const spread = grid != nullptr && grid->expert().size() > 1 && t.group == Group::expert;
  Communicator const& holders = spread ? grid->replicas() : comm;
  Slab slab = row_share(t.shape, holders.rank(), holders.size());
  Index const row = t.shape[0] > 0 ? t.size() / t.shape[0] : 0;
  auto const host = host_values(data + slab.offset[0] * row, slab.count[0] * row);
  slab.offset[0] += t.first;
  file.write<float>(name, std::span<float const>(host.data(), host.extent(0)), slab);
}

/// Each rank reads the rows that it holds.
void read_tensor(H5File const& file, std::string const& name, Tensor const& t, float* data) {
  file.require_dataset<float>(name, t.whole_shape());
  View1<float> const device(data, t.size());
  auto const host = Kokkos::create_mirror_view(device);
  file.read<float>(name, std::span<float>(host.data(), host.extent(0)), {{t.first}, {t.shape[0]}});
  Kokkos::deep_copy(device, host);
}

/// The same into every form in which the tensor is held, by way of memory for one tensor where that is not
/// fp32.
void read_tensor(H5File const& file, std::string const& name, Tensor const& t,
                 ModelWeights<float> const& weights) {
  if (weights.precision == Precision::fp32 || t.group == Group::router) {
    return read_tensor(file, name, t, data_of(t, weights.fp32));
  }
  View1<float> const values(Kokkos::view_alloc("upit::read_tensor", Kokkos::WithoutInitializing), t.size());
  read_tensor(file, name, t, values.data());
  assign(weights, t, values);
}

/// `comm` as the file was opened with: what is wrong with it is wrong for all ranks.
ModelFileInfo read_info(H5File const& file, Communicator const* comm) {
  auto const judge = [comm](std::function<void()> const& work) {
    comm != nullptr ? comm->agree(work) : work();
  };
  bool const ours = file.has_attribute("/", "upit_format");
  judge([&] { require(ours, file.path() + " is an HDF5 file, but not one of upit's models"); });
  Index const format = file.read_attribute<Index>("/", "upit_format");
  judge([&] {
    require(format == ModelFileInfo::kFormat, fmt::format("{} has format {}; this program reads format {}",
                                                          file.path(), format, ModelFileInfo::kFormat));
  });
  ModelFileInfo info;
  info.kind = file.read_attribute<std::string>("/", "kind");
  auto const shapes = file.read_attribute<std::string>("/", "shapes");
  judge([&] {
    try {
      parse_model_json(shapes, info.model, info.expert);
    } catch (Error const& error) {
      fail(file.path() + ": " + error.what());
    }
  });
  info.base_hash = file.read_attribute<std::string>("/", "base_hash");
  info.tokenizer = file.read_attribute<std::string>("/", "tokenizer");
  if (file.has_attribute("/", "tokenizer_hash")) {
    info.tokenizer_hash = file.read_attribute<std::string>("/", "tokenizer_hash");
  }
  info.prompt = file.read_attribute<std::string>("/", "template");
  info.deck = file.read_attribute<std::string>("/", "deck");
  info.program = file.read_attribute<std::string>("/", "program");
  info.step = file.read_attribute<Index>("/", "step");
  return info;
}

}  // namespace

std::string model_json(ModelConfig const& m, ExpertConfig const& e) {
  json j;
  j["model"] = {{"layers", m.layers},
                {"width", m.width},
                {"heads", m.heads},
                {"kv_heads", m.kv_heads},
                {"head_width", m.head_width},
                {"ffn", m.ffn},
                {"vocabulary", m.vocabulary},
                {"context", m.context},
                {"norm_eps", m.norm_eps},
                {"rope_theta", m.rope_theta},
                {"tied", m.tied}};
  j["expert"] = {{"kind", e.kind == ExpertKind::lora ? "lora" : "ffn"},
                 {"count", e.count},
                 {"active", e.active},
                 {"rank", e.rank},
                 {"alpha", e.alpha},
                 {"dropout", e.dropout},
                 {"mix", e.mix == LoraMix::branch ? "branch" : "ffn"},
                 {"order", e.order == RouterOrder::topk_softmax ? "topk_softmax" : "softmax_topk"},
                 {"router", e.router == RouterUse::none   ? "none"
                            : e.router == RouterUse::gate ? "gate"
                                                          : "auxiliary"}};
  return j.dump();
}

void parse_model_json(std::string const& text, ModelConfig& m, ExpertConfig& e) {
  try {
    json const j = json::parse(text);
    json const& a = j.at("model");
    a.at("layers").get_to(m.layers);
    a.at("width").get_to(m.width);
    a.at("heads").get_to(m.heads);
    a.at("kv_heads").get_to(m.kv_heads);
    a.at("head_width").get_to(m.head_width);
    a.at("ffn").get_to(m.ffn);
    a.at("vocabulary").get_to(m.vocabulary);
    a.at("context").get_to(m.context);
    a.at("norm_eps").get_to(m.norm_eps);
    a.at("rope_theta").get_to(m.rope_theta);
    a.at("tied").get_to(m.tied);
    json const& b = j.at("expert");
    e.kind = word_of<ExpertKind>(b.at("kind"), {{"lora", ExpertKind::lora}, {"ffn", ExpertKind::ffn}});
    b.at("count").get_to(e.count);
    b.at("active").get_to(e.active);
    b.at("rank").get_to(e.rank);
    b.at("alpha").get_to(e.alpha);
    b.at("dropout").get_to(e.dropout);
    e.mix = word_of<LoraMix>(b.at("mix"), {{"branch", LoraMix::branch}, {"ffn", LoraMix::ffn}});
    e.order = word_of<RouterOrder>(b.at("order"), {{"topk_softmax", RouterOrder::topk_softmax},
                                                   {"softmax_topk", RouterOrder::softmax_topk}});
    e.router = word_of<RouterUse>(
        b.at("router"),
        {{"none", RouterUse::none}, {"gate", RouterUse::gate}, {"auxiliary", RouterUse::auxiliary}});
  } catch (json::exception const& error) {
    fail(fmt::format("the shapes stored in a model file cannot be read: {}", error.what()));
  }
}

void write_info(H5File& file, ModelFileInfo const& info) {
  file.write_attribute<Index>("/", "upit_format", ModelFileInfo::kFormat);
  file.write_attribute<std::string>("/", "kind", info.kind);
  file.write_attribute<std::string>("/", "shapes", model_json(info.model, info.expert));
  file.write_attribute<std::string>("/", "base_hash", info.base_hash);
  file.write_attribute<std::string>("/", "tokenizer", info.tokenizer);
  file.write_attribute<std::string>("/", "tokenizer_hash", info.tokenizer_hash);
  file.write_attribute<std::string>("/", "template", info.prompt);
  file.write_attribute<std::string>("/", "deck", info.deck);
  file.write_attribute<std::string>("/", "program", git_hash());
  file.write_attribute<Index>("/", "step", info.step);
}

std::string backbone_hash(ParameterTable const& table, Weights<float> const& weights) {
  Hasher hasher;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::backbone) continue;
    auto const host = host_values(data_of(t, weights), t.size());
    hasher.add(t.name);
    hasher.add(host.data(), host.extent(0) * sizeof(float));
  }
  return hasher.hex();
}

void write_model_file(std::string const& path, Communicator const& comm, ModelFileInfo const& info,
                      ParameterTable const& table, Weights<float> const& weights, Groups groups,
                      RankGrid const* grid) {
  write_model_file(path, comm, info, table, ModelWeights<float>(weights), groups, grid);
}

void write_model_file(std::string const& path, Communicator const& comm, ModelFileInfo const& info,
                      ParameterTable const& table, ModelWeights<float> const& weights, Groups groups,
                      RankGrid const* grid, std::string const& source) {
  ProfilingRegion const region("upit::write_model_file");
  std::optional<H5File> from;
  H5File file = H5File::create(path, &comm);
  write_info(file, info);
  for (auto const& t : table.tensors()) {
    if (!wanted(groups, t.group)) continue;
    if (weights.in_fp32(t.group)) {
      write_tensor(file, comm, grid, dataset_name(t), t, data_of(t, weights.fp32));
      continue;
    }
    expect(!source.empty(), "rounded weights are not written: a file must hold the exact ones");
    if (!from) from.emplace(H5File::open(source, &comm));
    View1<float> const values(Kokkos::view_alloc("upit::write_tensor", Kokkos::WithoutInitializing),
                              t.size());
    read_tensor(*from, dataset_name(t), t, values.data());
    write_tensor(file, comm, grid, dataset_name(t), t, values.data());
  }
  if (from) from->close();
  file.close();
}

ModelFileInfo read_model_info(std::string const& path, Communicator const* comm) {
  H5File file = H5File::open(path, comm);
  ModelFileInfo info = read_info(file, comm);
  file.close();
  return info;
}

void read_model_file(std::string const& path, Communicator const* comm, ParameterTable const& table,
                     Weights<float> const& weights, Groups groups) {
  read_model_file(path, comm, table, ModelWeights<float>(weights), groups);
}

void read_model_file(std::string const& path, Communicator const* comm, ParameterTable const& table,
                     ModelWeights<float> const& weights, Groups groups) {
  H5File file = H5File::open(path, comm);
  read_info(file, comm);
  for (auto const& t : table.tensors()) {
    if (wanted(groups, t.group)) read_tensor(file, dataset_name(t), t, weights);
  }
  file.close();
}

void write_state(std::string const& path, Communicator const& comm, ModelFileInfo const& info,
                 ParameterTable const& table, Weights<float> const& weights, View1<float> const& first_moment,
                 View1<float> const& second_moment, RankGrid const* grid, std::span<double const> window) {
  ProfilingRegion const region("upit::write_state");
  H5File file = H5File::create(path, &comm);
  write_info(file, info);
  for (auto const& t : table.tensors()) {
    if (t.gradient_offset < 0) continue;
    write_tensor(file, comm, grid, dataset_name(t), t, data_of(t, weights));
    write_tensor(file, comm, grid, "first_moment/" + t.name, t, first_moment.data() + t.gradient_offset);
    write_tensor(file, comm, grid, "second_moment/" + t.name, t, second_moment.data() + t.gradient_offset);
  }
  std::vector<Index> const extent = {std::ssize(window)};
  if (!window.empty()) file.write_all<double>(kWindow, window, extent);
  file.close();
}

Index read_state(std::string const& path, Communicator const& comm, ParameterTable const& table,
                 Weights<float> const& weights, View1<float> const& first_moment,
                 View1<float> const& second_moment, std::vector<double>* window) {
  H5File file = H5File::open(path, &comm);
  ModelFileInfo const info = read_info(file, &comm);
  for (auto const& t : table.tensors()) {
    if (t.gradient_offset < 0) continue;
    read_tensor(file, dataset_name(t), t, data_of(t, weights));
    read_tensor(file, "first_moment/" + t.name, t, first_moment.data() + t.gradient_offset);
    read_tensor(file, "second_moment/" + t.name, t, second_moment.data() + t.gradient_offset);
  }
  if (window != nullptr && file.exists(kWindow)) *window = file.read_all<double>(kWindow);
  file.close();
  return info.step;
}

Index state_file_bytes(ParameterTable const& table) {
  Index bytes = 0;
  for (auto const& t : table.tensors()) {
    if (t.gradient_offset >= 0) bytes += 3 * whole_bytes(t);
  }
  return bytes;
}

Index model_file_bytes(ParameterTable const& table, Groups groups) {
  Index bytes = 0;
  for (auto const& t : table.tensors()) {
    if (wanted(groups, t.group)) bytes += whole_bytes(t);
  }
  return bytes;
}

}  // namespace upit
