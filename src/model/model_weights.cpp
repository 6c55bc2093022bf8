// SPDX-License-Identifier: Apache-2.0
#include "upit/model/model_weights.hpp"

#include <fmt/format.h>

#include "upit/core/error.hpp"
#include "upit/kernels/elementwise.hpp"

namespace upit {

std::string_view name_of(Precision precision) { return precision == Precision::bf16 ? "bf16" : "fp32"; }

Precision precision_named(std::string_view name) {
  for (auto const precision : {Precision::fp32, Precision::bf16}) {
    if (name == name_of(precision)) return precision;
  }
  fail(fmt::format("the precision is \"{}\"; allowed: \"fp32\", \"bf16\"", name));
}

template <class R>
ModelWeights<R>::ModelWeights(Precision p, ParameterTable const& table) : precision(p) {
  if (precision == Precision::fp32) {
    fp32 = Weights<R>(table);
    return;
  }
  if constexpr (std::is_same_v<R, float>) {
    master_[0] = table.trained().backbone;
    master_[1] = table.trained().expert;
    bf16.backbone = View1<bfloat16>("upit::weights.backbone", table.extent(Group::backbone));
    bf16.expert = View1<bfloat16>("upit::weights.expert", table.extent(Group::expert));
    bf16.router = fp32.router = View1<float>("upit::weights.router", table.extent(Group::router));
    if (master_[0]) fp32.backbone = View1<float>("upit::masters.backbone", bf16.backbone.extent(0));
    if (master_[1]) fp32.expert = View1<float>("upit::masters.expert", bf16.expert.extent(0));
  } else {
    fail("checks in double have no 16-bit weights");
  }
}

template <class R>
bool ModelWeights<R>::in_fp32(Group group) const {
  return precision == Precision::fp32 || group == Group::router || master_[static_cast<int>(group)];
}

template <class R>
void ModelWeights<R>::round(Exec const& exec) const {
  if constexpr (std::is_same_v<R, float>) {
    if (precision == Precision::fp32) return;
    if (master_[0]) kernels::convert<bfloat16, float>(exec, fp32.backbone, bf16.backbone);
    if (master_[1]) kernels::convert<bfloat16, float>(exec, fp32.expert, bf16.expert);
  }
}

template <class R>
Index ModelWeights<R>::bytes() const {
  auto const elements = [](auto const& w) { return w.backbone.span() + w.expert.span(); };
  return static_cast<Index>((elements(fp32) + fp32.router.span()) * sizeof(R) +
                            elements(bf16) * sizeof(bfloat16));
}

template <class R>
void assign(ModelWeights<R> const& weights, Tensor const& tensor, View1<R> const& values) {
  if (weights.in_fp32(tensor.group)) Kokkos::deep_copy(weights.fp32.tensor(tensor), values);
  if constexpr (std::is_same_v<R, float>) {
    if (weights.precision == Precision::fp32 || tensor.group == Group::router) return;
    Exec const exec;
    kernels::convert<bfloat16, float>(exec, values, weights.bf16.tensor(tensor));
    exec.fence();
  }
}

namespace {

/// Calls `fill` with the weights that hold the group: fp32, then rounded, or bf16 alone.
template <class R, class Fill>
void fill_held(ModelWeights<R> const& weights, Group group, Fill const& fill) {
  if (!weights.in_fp32(group)) return fill(weights.bf16);
  fill(weights.fp32);
  Exec const exec;
  weights.round(exec);
  exec.fence();
}

}  // namespace

template <class R>
void initialise_backbone(ParameterTable const& table, ModelConfig const& model, std::uint64_t seed,
                         ModelWeights<R> const& weights) {
  fill_held(weights, Group::backbone, [&](auto const& w) { initialise_backbone(table, model, seed, w); });
}

template <class R>
void initialise_lora(ParameterTable const& table, std::uint64_t seed, ModelWeights<R> const& weights) {
  fill_held(weights, Group::expert, [&](auto const& w) { initialise_lora(table, seed, w); });
}

template <class R>
void initialise_router(ParameterTable const& table, std::uint64_t seed, Index first_expert,
                       ModelWeights<R> const& weights) {
  initialise_router(table, seed, first_expert, weights.fp32);
}

#define UPIT_INSTANTIATE(R)                                                                    \
  template struct ModelWeights<R>;                                                             \
  template void assign(ModelWeights<R> const&, Tensor const&, View1<R> const&);                \
  template void initialise_backbone(ParameterTable const&, ModelConfig const&, std::uint64_t,  \
                                    ModelWeights<R> const&);                                   \
  template void initialise_lora(ParameterTable const&, std::uint64_t, ModelWeights<R> const&); \
  template void initialise_router(ParameterTable const&, std::uint64_t, Index, ModelWeights<R> const&);
UPIT_INSTANTIATE(float)
UPIT_INSTANTIATE(double)
#undef UPIT_INSTANTIATE

}  // namespace upit
