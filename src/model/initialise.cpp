// SPDX-License-Identifier: Apache-2.0
// Owns the values that weights start from; drawn on the host once, keyed by tensor and element.
#include <cmath>
#include <functional>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/model/parameters.hpp"

namespace upit {
namespace {

/// Writes value(i) to each of the n elements at `data` through a host copy.
template <class R>
void fill_from_host(R* data, Index n, std::function<double(Index)> const& value) {
  HostView1<R> const host("upit::initialise", n);
  for (Index i = 0; i < n; ++i) host(i) = static_cast<R>(value(i));
  Kokkos::deep_copy(View1<R>(data, n), host);
}

constexpr double kBackboneDeviation = 0.02;
constexpr double kRouterDeviation = 0.02;

}  // namespace

template <class T>
void initialise_backbone(ParameterTable const& table, ModelConfig const& model, std::uint64_t seed,
                         Weights<T> const& weights) {
  double const output_deviation = kBackboneDeviation / std::sqrt(2.0 * static_cast<double>(model.layers));
  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::backbone) continue;
    RandomKey const key = random_key(seed, "backbone", number++);
    bool const output = t.name.ends_with("attention.out") || t.name.ends_with("ffn.down");
    double const deviation = output ? output_deviation : kBackboneDeviation;
    bool const norm = t.shape.size() == 1;
    fill_from_host(weights.backbone.data() + t.offset, t.size(), [&](Index i) {
      return norm ? 1.0 : deviation * random_normal(key, static_cast<std::uint64_t>(i));
    });
  }
}

template <class T>
void initialise_lora(ParameterTable const& table, std::uint64_t seed, Weights<T> const& weights) {
  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    RandomKey const key = random_key(seed, "lora", number++);
    bool const is_a = t.name.ends_with("_a");
    Index const fan_in = t.shape[2];
    Index const per_expert = t.shape[1] * fan_in;
    double const bound = 1.0 / std::sqrt(static_cast<double>(fan_in));
    fill_from_host(weights.expert.data() + t.offset, t.size(), [&](Index i) {
      return is_a ? bound * (2.0 * random_uniform(key, static_cast<std::uint64_t>(i % per_expert)) - 1.0)
                  : 0.0;
    });
  }
}

double random_router_weight(std::uint64_t seed, Index layer, Index expert, Index channel) {
  RandomKey const key = random_key(seed, "router", layer, expert);
  return kRouterDeviation * random_normal(key, static_cast<std::uint64_t>(channel));
}

template <class T>
void initialise_router(ParameterTable const& table, std::uint64_t seed, Index first_expert,
                       Weights<T> const& weights) {
  for (auto const& t : table.tensors()) {
    if (t.group != Group::router) continue;
    Index const width = t.shape[1];
    fill_from_host(weights.router.data() + t.offset, t.size(), [&](Index i) {
      return random_router_weight(seed, t.layer, first_expert + i / width, i % width);
    });
  }
}

template void initialise_backbone(ParameterTable const&, ModelConfig const&, std::uint64_t,
                                  Weights<float> const&);
template void initialise_backbone(ParameterTable const&, ModelConfig const&, std::uint64_t,
                                  Weights<double> const&);
template void initialise_backbone(ParameterTable const&, ModelConfig const&, std::uint64_t,
                                  Weights<bfloat16> const&);
template void initialise_lora(ParameterTable const&, std::uint64_t, Weights<float> const&);
template void initialise_lora(ParameterTable const&, std::uint64_t, Weights<double> const&);
template void initialise_lora(ParameterTable const&, std::uint64_t, Weights<bfloat16> const&);
template void initialise_router(ParameterTable const&, std::uint64_t, Index, Weights<float> const&);
template void initialise_router(ParameterTable const&, std::uint64_t, Index, Weights<double> const&);
template void initialise_router(ParameterTable const&, std::uint64_t, Index, Weights<bfloat16> const&);

}  // namespace upit
