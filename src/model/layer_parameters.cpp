// SPDX-License-Identifier: Apache-2.0
#include "upit/model/layer_parameters.hpp"

#include <fmt/format.h>

namespace upit {
namespace {

template <class T>
Parameter<T> parameter(Tensor const* tensor, View1<T> const& buffer, View1<Real<T>> const& gradient) {
  if (tensor == nullptr) return {};
  bool const trained = tensor->gradient_offset >= 0 && gradient.extent(0) > 0;
  return {buffer.data() + tensor->offset, trained ? gradient.data() + tensor->gradient_offset : nullptr};
}

/// Of the backbone or of the experts: an FFN stands in either.
template <class T>
Parameter<T> ffn_parameter(Tensor const* tensor, Weights<T> const& w, View1<Real<T>> const& gradient) {
  return parameter<T>(tensor, tensor->group == Group::expert ? w.expert : w.backbone, gradient);
}

}  // namespace

LayerTensors::LayerTensors(ParameterTable const& table, int layer) {
  auto const find = [&](char const* rest) { return &table.find(layer, rest); };
  attention_norm = find("attention_norm");
  qkv = find("attention.qkv");
  out = find("attention.out");
  ffn_norm = find("ffn_norm");
  auto const has = [&](char const* rest) { return table.contains(fmt::format("layers.{}.{}", layer, rest)); };
  bool const experts = has("experts.gate_up");
  gate_up = find(experts ? "experts.gate_up" : "ffn.gate_up");
  down = find(experts ? "experts.down" : "ffn.down");
  if (has("lora.gate_up_a")) {
    gate_up_a = find("lora.gate_up_a");
    gate_b = find("lora.gate_b");
    up_b = find("lora.up_b");
    down_a = find("lora.down_a");
    down_b = find("lora.down_b");
  }
  if (has("router")) router = find("router");
}

template <class T>
LayerParameters<T> layer_parameters(LayerTensors const& t, Weights<T> const& w,
                                    View1<Real<T>> const& gradient) {
  LayerParameters<T> p;
  p.attention_norm = parameter<T>(t.attention_norm, w.backbone, gradient);
  p.qkv = parameter<T>(t.qkv, w.backbone, gradient);
  p.out = parameter<T>(t.out, w.backbone, gradient);
  p.ffn_norm = parameter<T>(t.ffn_norm, w.backbone, gradient);
  p.gate_up = ffn_parameter<T>(t.gate_up, w, gradient);
  p.down = ffn_parameter<T>(t.down, w, gradient);
  p.gate_up_a = parameter<T>(t.gate_up_a, w.expert, gradient);
  p.gate_b = parameter<T>(t.gate_b, w.expert, gradient);
  p.up_b = parameter<T>(t.up_b, w.expert, gradient);
  p.down_a = parameter<T>(t.down_a, w.expert, gradient);
  p.down_b = parameter<T>(t.down_b, w.expert, gradient);
  p.router = parameter<Real<T>>(t.router, w.router, gradient);
  return p;
}

template <class T>
Parameter<T> backbone_parameter(Tensor const& tensor, Weights<T> const& weights,
                                View1<Real<T>> const& gradient) {
  return parameter<T>(&tensor, weights.backbone, gradient);
}

template LayerParameters<float> layer_parameters(LayerTensors const&, Weights<float> const&,
                                                 View1<float> const&);
template LayerParameters<double> layer_parameters(LayerTensors const&, Weights<double> const&,
                                                  View1<double> const&);
template LayerParameters<bfloat16> layer_parameters(LayerTensors const&, Weights<bfloat16> const&,
                                                    View1<float> const&);
template Parameter<float> backbone_parameter(Tensor const&, Weights<float> const&, View1<float> const&);
template Parameter<double> backbone_parameter(Tensor const&, Weights<double> const&, View1<double> const&);
template Parameter<bfloat16> backbone_parameter(Tensor const&, Weights<bfloat16> const&, View1<float> const&);

}  // namespace upit
