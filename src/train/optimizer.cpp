// SPDX-License-Identifier: Apache-2.0
#include "upit/train/optimizer.hpp"

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"

namespace upit {

template <class R>
Optimizer<R>::Optimizer(ParameterTable const& table)
    : spans_(table.trained_spans()),
      stretch_{table.gradient_of(Group::backbone), table.gradient_of(Group::expert),
               table.gradient_of(Group::router)},
      first_("upit::optimizer.first_moment", table.gradient_extent()),
      second_("upit::optimizer.second_moment", table.gradient_extent()),
      blocks_("upit::optimizer.blocks", kernels::squared_norm_blocks(table.gradient_extent())),
      norms_("upit::optimizer.norms", 3),
      norms_host_("upit::optimizer.norms_host", 3) {}

template <class R>
std::array<double, 3> Optimizer<R>::squared_norms(Exec const& exec, View1<R> const& gradient) const {
  for (int group = 0; group < 3; ++group) {
    auto const& s = stretch_[group];
    kernels::squared_norm<R>(exec, View1<R>(gradient.data() + s.first, s.count), blocks_,
                             View1<double>(norms_.data() + group, 1));
  }
  Kokkos::deep_copy(exec, norms_host_, norms_);
  exec.fence();
  return {norms_host_(0), norms_host_(1), norms_host_(2)};
}

template <class R>
void Optimizer<R>::step(Exec const& exec, ModelWeights<R> const& weights, View1<R> const& gradient,
                        double norm, double clip, kernels::AdamwStep settings) const {
  ProfilingRegion const region("upit::optimizer");
  settings.gradient_scale = clip > 0.0 && norm > clip ? clip / norm : 1.0;
  for (auto const& span : spans_) {
    auto const of_group = [&](auto const& w, auto const& router) {
      return span.group == Group::backbone ? w.backbone : span.group == Group::expert ? w.expert : router;
    };
    auto const at = [&](View1<R> const& v) { return View1<R>(v.data() + span.gradient_offset, span.size); };
    View1<R> const weight(of_group(weights.fp32, weights.fp32.router).data() + span.offset, span.size);
    if constexpr (std::is_same_v<R, float>) {
      if (weights.precision == Precision::bf16 && span.group != Group::router) {
        View1<bfloat16> const rounded(of_group(weights.bf16, View1<bfloat16>()).data() + span.offset,
                                      span.size);
        kernels::adamw_rounded<bfloat16>(exec, at(gradient), weight, rounded, at(first_), at(second_),
                                         settings);
        continue;
      }
    }
    kernels::adamw<R>(exec, at(gradient), weight, at(first_), at(second_), settings);
  }
}

template <class R>
void Optimizer<R>::reset(Exec const& exec) const {
  Kokkos::deep_copy(exec, first_, R(0));
  Kokkos::deep_copy(exec, second_, R(0));
}

template <class R>
Index Optimizer<R>::bytes() const {
  return static_cast<Index>((first_.span() + second_.span()) * sizeof(R) + blocks_.span() * sizeof(double));
}

template class Optimizer<float>;
template class Optimizer<double>;

}  // namespace upit
