// SPDX-License-Identifier: Apache-2.0
#include "upit/train/optimizer.hpp"

#include <cmath>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"

namespace upit {

template <class T>
Optimizer<T>::Optimizer(ParameterTable const& table)
    : spans_(table.trained_spans()),
      stretch_{table.gradient_of(Group::backbone), table.gradient_of(Group::expert),
               table.gradient_of(Group::router)},
      first_("upit::optimizer.first_moment", table.gradient_extent()),
      second_("upit::optimizer.second_moment", table.gradient_extent()),
      blocks_("upit::optimizer.blocks", kernels::squared_norm_blocks(table.gradient_extent())),
      norms_("upit::optimizer.norms", 3),
      norms_host_("upit::optimizer.norms_host", 3) {}

template <class T>
double Optimizer<T>::norm(Exec const& exec, View1<Real<T>> const& gradient) const {
  return std::sqrt(kernels::squared_norm<Real<T>>(exec, gradient, blocks_));
}

template <class T>
double Optimizer<T>::squared_norm(Exec const& exec, View1<Real<T>> const& gradient, Group group) const {
  auto const& s = stretch_[static_cast<int>(group)];
  return kernels::squared_norm<Real<T>>(exec, View1<Real<T>>(gradient.data() + s.first, s.count), blocks_);
}

template <class T>
std::array<double, 3> Optimizer<T>::squared_norms(Exec const& exec, View1<Real<T>> const& gradient) const {
  for (int group = 0; group < 3; ++group) {
    auto const& s = stretch_[group];
    kernels::squared_norm<Real<T>>(exec, View1<Real<T>>(gradient.data() + s.first, s.count), blocks_,
                                   View1<double>(norms_.data() + group, 1));
  }
  Kokkos::deep_copy(exec, norms_host_, norms_);
  exec.fence();
  return {norms_host_(0), norms_host_(1), norms_host_(2)};
}

template <class T>
void Optimizer<T>::step(Exec const& exec, Weights<T> const& weights, View1<Real<T>> const& gradient,
                        double norm, double clip, kernels::AdamwStep settings) const {
  static_assert(std::is_same_v<T, Real<T>>, "storage narrower than fp32 needs master weights");
  ProfilingRegion const region("upit::optimizer");
  settings.gradient_scale = clip > 0.0 && norm > clip ? clip / norm : 1.0;
  for (auto const& span : spans_) {
    View1<T> const& buffer = span.group == Group::backbone ? weights.backbone
                             : span.group == Group::expert ? weights.expert
                                                           : weights.router;
    auto const at = [&](View1<Real<T>> const& v) {
      return View1<Real<T>>(v.data() + span.gradient_offset, span.size);
    };
    kernels::adamw<T>(exec, at(gradient), View1<T>(buffer.data() + span.offset, span.size), at(first_),
                      at(second_), settings);
  }
}

template <class T>
void Optimizer<T>::reset(Exec const& exec) const {
  Kokkos::deep_copy(exec, first_, Real<T>(0));
  Kokkos::deep_copy(exec, second_, Real<T>(0));
}

template <class T>
Index Optimizer<T>::bytes() const {
  return static_cast<Index>((first_.span() + second_.span()) * sizeof(Real<T>) +
                            blocks_.span() * sizeof(double));
}

template class Optimizer<float>;
template class Optimizer<double>;

}  // namespace upit
