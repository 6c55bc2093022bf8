// SPDX-License-Identifier: Apache-2.0
// Owns the way from the parameter table to the matrices of one layer.
#pragma once

#include "upit/model/parameters.hpp"

namespace upit {

/// One tensor's values and, where it is trained, its gradient (else null).
template <class T>
struct Parameter {
  T const* weight = nullptr;
  Real<T>* gradient = nullptr;
  bool trained() const { return gradient != nullptr; }
};

/// Tensors of one layer, looked up by name once. gate_up and down: of the base FFN, or of the FFN experts
/// that are here, one after the other.
struct LayerTensors {
  Tensor const *attention_norm = nullptr, *qkv = nullptr, *out = nullptr, *ffn_norm = nullptr,
               *gate_up = nullptr, *down = nullptr;
  Tensor const *gate_up_a = nullptr, *gate_b = nullptr, *up_b = nullptr, *down_a = nullptr, *down_b = nullptr;
  Tensor const* router = nullptr;

  LayerTensors(ParameterTable const& table, int layer);
};

/// The same as pointers into one set of weights and gradients. Shapes: see ParameterTable.
template <class T>
struct LayerParameters {
  Parameter<T> attention_norm, qkv, out, ffn_norm, gate_up, down;
  Parameter<T> gate_up_a, gate_b, up_b, down_a, down_b;
  Parameter<Real<T>> router;
};

/// `gradient` of extent 0: no gradients (evaluation).
template <class T>
LayerParameters<T> layer_parameters(LayerTensors const& tensors, Weights<T> const& weights,
                                    View1<Real<T>> const& gradient);

/// One backbone tensor outside the layers.
template <class T>
Parameter<T> backbone_parameter(Tensor const& tensor, Weights<T> const& weights,
                                View1<Real<T>> const& gradient);

}  // namespace upit
