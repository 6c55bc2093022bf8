// SPDX-License-Identifier: Apache-2.0
#include "upit/model/parameters.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "upit/core/error.hpp"

namespace upit {
namespace {

Index aligned(Index elements) {
  constexpr Index a = ParameterTable::kAlignment;
  return (elements + a - 1) / a * a;
}

}  // namespace

Index Tensor::size() const {
  return std::accumulate(shape.begin(), shape.end(), Index{1}, std::multiplies<>());
}

std::vector<Index> Tensor::whole_shape() const {
  std::vector<Index> whole = shape;
  whole.front() = rows;
  return whole;
}

void ParameterTable::add(std::string name, Group group, int layer, std::vector<Index> shape) {
  Index const rows = shape.front();
  Tensor t{std::move(name), group, layer, std::move(shape), 0, rows, extent(group), -1};
  extent_[static_cast<int>(group)] += aligned(t.size());
  if (trained_[group]) {
    t.gradient_offset = gradient_extent_;
    gradient_extent_ += aligned(t.size());
  }
  tensors_.push_back(std::move(t));
}

ParameterTable::ParameterTable(ModelConfig const& m, ExpertConfig const& e, Trained trained, ExpertRange held)
    : trained_(trained), held_(held) {
  check(m, e);
  if (held_.count < 0) held_ = {0, e.count};
  expect(held_.first >= 0 && held_.first + held_.count <= e.count, "a rank holds experts that are there");
  expect(e.kind == ExpertKind::ffn || held_.count == e.count, "LoRA experts are all on every rank");
  Index const q_width = m.heads * m.head_width;
  Index const qkv_width = q_width + 2 * m.kv_heads * m.head_width;
  // Group by group: gradients of a group are then consecutive too.
  add("embedding", Group::backbone, -1, {m.vocabulary, m.width});
  for (int l = 0; l < m.layers; ++l) {
    auto const name = [l](char const* rest) { return fmt::format("layers.{}.{}", l, rest); };
    add(name("attention_norm"), Group::backbone, l, {m.width});
    add(name("attention.qkv"), Group::backbone, l, {qkv_width, m.width});
    add(name("attention.out"), Group::backbone, l, {m.width, q_width});
    add(name("ffn_norm"), Group::backbone, l, {m.width});
    if (e.count > 0 && e.kind == ExpertKind::ffn) continue;
    add(name("ffn.gate_up"), Group::backbone, l, {2 * m.ffn, m.width});
    add(name("ffn.down"), Group::backbone, l, {m.width, m.ffn});
  }
  add("norm", Group::backbone, -1, {m.width});
  if (!m.tied) add("head", Group::backbone, -1, {m.vocabulary, m.width});
  if (e.count == 0) return;
  e.kind == ExpertKind::ffn ? add_ffn_experts(m, e) : add_lora(m, e);
  if (e.router == RouterUse::none) return;
  for (int l = 0; l < m.layers; ++l) {
    add(fmt::format("layers.{}.router", l), Group::router, l, {e.count, m.width});
  }
}

void ParameterTable::add_lora(ModelConfig const& m, ExpertConfig const& e) {
  for (int l = 0; l < m.layers; ++l) {
    auto const name = [l](char const* rest) { return fmt::format("layers.{}.lora.{}", l, rest); };
    add(name("gate_up_a"), Group::expert, l, {e.count, 2 * e.rank, m.width});
    add(name("gate_b"), Group::expert, l, {e.count, e.rank, m.ffn});
    add(name("up_b"), Group::expert, l, {e.count, e.rank, m.ffn});
    add(name("down_a"), Group::expert, l, {e.count, e.rank, m.ffn});
    add(name("down_b"), Group::expert, l, {e.count, e.rank, m.width});
  }
}

void ParameterTable::add_ffn_experts(ModelConfig const& m, ExpertConfig const& e) {
  for (int l = 0; l < m.layers; ++l) {
    add(fmt::format("layers.{}.experts.gate_up", l), Group::expert, l, {held_.count, 2 * m.ffn, m.width});
    add(fmt::format("layers.{}.experts.down", l), Group::expert, l, {held_.count, m.width, m.ffn});
  }
  for (auto& t : tensors_) {
    if (t.group != Group::expert) continue;
    t.first = held_.first;
    t.rows = e.count;
  }
}

ParameterTable::Stretch ParameterTable::gradient_of(Group group) const {
  Stretch stretch;
  for (auto const& span : trained_spans()) {
    if (span.group != group) continue;
    if (stretch.count == 0) stretch.first = span.gradient_offset;
    stretch.count = span.gradient_offset + span.size - stretch.first;
  }
  return stretch;
}

Tensor const& ParameterTable::find(std::string_view name) const {
  auto const it =
      std::find_if(tensors_.begin(), tensors_.end(), [name](Tensor const& t) { return t.name == name; });
  require(it != tensors_.end(), fmt::format("the model has no tensor named {}", name));
  return *it;
}

Tensor const& ParameterTable::find(int layer, std::string_view rest) const {
  return find(fmt::format("layers.{}.{}", layer, rest));
}

bool ParameterTable::contains(std::string_view name) const {
  return std::any_of(tensors_.begin(), tensors_.end(), [name](Tensor const& t) { return t.name == name; });
}

Index ParameterTable::count(Group group) const {
  Index n = 0;
  for (auto const& t : tensors_) n += t.group == group ? t.size() : 0;
  return n;
}

Index ParameterTable::trained_count() const {
  Index n = 0;
  for (auto const& t : tensors_) n += t.gradient_offset >= 0 ? t.size() : 0;
  return n;
}

std::vector<TrainedSpan> ParameterTable::trained_spans() const {
  std::vector<TrainedSpan> spans;
  for (auto const& t : tensors_) {
    if (t.gradient_offset < 0) continue;
    Index const size = aligned(t.size());
    bool const follows = !spans.empty() && spans.back().group == t.group &&
                         spans.back().offset + spans.back().size == t.offset &&
                         spans.back().gradient_offset + spans.back().size == t.gradient_offset;
    if (follows) {
      spans.back().size += size;
    } else {
      spans.push_back({t.group, t.offset, t.gradient_offset, size});
    }
  }
  return spans;
}

template <class T>
Weights<T>::Weights(ParameterTable const& table)
    : backbone("upit::weights.backbone", table.extent(Group::backbone)),
      expert("upit::weights.expert", table.extent(Group::expert)),
      router("upit::weights.router", table.extent(Group::router)) {}

template <class T>
View1<T> Weights<T>::tensor(Tensor const& t) const {
  switch (t.group) {
    case Group::backbone:
      return View1<T>(backbone.data() + t.offset, t.size());
    case Group::expert:
      return View1<T>(expert.data() + t.offset, t.size());
    case Group::router:
      break;
  }
  if constexpr (std::is_same_v<T, Real<T>>) {
    return View1<T>(router.data() + t.offset, t.size());
  } else {
    fail("router tensors are not stored in the model's own precision");
  }
}

template struct Weights<float>;
template struct Weights<double>;
template struct Weights<bfloat16>;

}  // namespace upit
