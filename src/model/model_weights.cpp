// SPDX-License-Identifier: Apache-2.0
#include "upit/model/model_weights.hpp"

#include "upit/core/error.hpp"
#include "upit/kernels/elementwise.hpp"

namespace upit {

template <class R>
ModelWeights<R>::ModelWeights(Precision p, ParameterTable const& table) : precision(p) {
  if (precision == Precision::fp32) {
    single = Weights<R>(table);
    return;
  }
  if constexpr (std::is_same_v<R, float>) {
    master_[0] = table.trained().backbone;
    master_[1] = table.trained().expert;
    half.backbone = View1<bfloat16>("upit::weights.backbone", table.extent(Group::backbone));
    half.expert = View1<bfloat16>("upit::weights.expert", table.extent(Group::expert));
    half.router = single.router = View1<float>("upit::weights.router", table.extent(Group::router));
    if (master_[0]) single.backbone = View1<float>("upit::masters.backbone", half.backbone.extent(0));
    if (master_[1]) single.expert = View1<float>("upit::masters.expert", half.expert.extent(0));
  } else {
    fail("checks in double have no 16-bit weights");
  }
}

template <class R>
bool ModelWeights<R>::in_single(Group group) const {
  return precision == Precision::fp32 || group == Group::router || master_[static_cast<int>(group)];
}

template <class R>
void ModelWeights<R>::round(Exec const& exec) const {
  if constexpr (std::is_same_v<R, float>) {
    if (precision == Precision::fp32) return;
    if (master_[0]) kernels::convert<bfloat16, float>(exec, single.backbone, half.backbone);
    if (master_[1]) kernels::convert<bfloat16, float>(exec, single.expert, half.expert);
  }
}

template <class R>
Index ModelWeights<R>::bytes() const {
  auto const elements = [](auto const& w) { return w.backbone.span() + w.expert.span(); };
  return static_cast<Index>((elements(single) + single.router.span()) * sizeof(R) +
                            elements(half) * sizeof(bfloat16));
}

template <class R>
void assign(ModelWeights<R> const& weights, Tensor const& tensor, View1<R> const& values) {
  if (weights.in_single(tensor.group)) Kokkos::deep_copy(weights.single.tensor(tensor), values);
  if constexpr (std::is_same_v<R, float>) {
    if (weights.precision == Precision::fp32 || tensor.group == Group::router) return;
    Exec const exec;
    kernels::convert<bfloat16, float>(exec, values, weights.half.tensor(tensor));
    exec.fence();
  }
}

namespace {

/// Calls `fill` with the weights that hold the group: single, then rounded, or half.
template <class R, class Fill>
void fill_held(ModelWeights<R> const& weights, Group group, Fill const& fill) {
  if (!weights.in_single(group)) return fill(weights.half);
  fill(weights.single);
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
  initialise_router(table, seed, first_expert, weights.single);
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
