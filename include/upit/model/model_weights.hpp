// SPDX-License-Identifier: Apache-2.0
// Owns the choice of what a run computes in, and the values of a model under either choice.
#pragma once

#include <string_view>
#include <type_traits>

#include "upit/model/parameters.hpp"

namespace upit {

/// Type of weights and activations. Sums, softmax, norms, routers, losses and gradients are at least fp32.
enum class Precision { fp32, bf16 };

/// "fp32", "bf16": as decks and the command line spell them.
std::string_view name_of(Precision precision);
/// Throws `Error` for any other word.
Precision precision_named(std::string_view name);

/// The values of a model as a run holds them. R is float, or double for checks in double alone.
template <class R>
struct ModelWeights {
  Precision precision = Precision::fp32;
  /// fp32: all groups. bf16: routers, and masters of the groups that are trained; others have extent 0.
  Weights<R> fp32;
  /// bf16: what is computed with; its routers are those of `fp32`. fp32: nothing.
  Weights<bfloat16> bf16;

  ModelWeights() = default;
  /// All in one precision: what tests and small tools have.
  ModelWeights(Weights<R> const& weights) : fp32(weights) {}
  /// Zeros; masters for the groups that `table` trains.
  ModelWeights(Precision precision, ParameterTable const& table);

  /// True if the values of the group are in `fp32`: what files hold is then exact.
  bool in_fp32(Group group) const;
  /// Rounds what is held in both: after masters were changed by anything but the optimizer.
  void round(Exec const& exec) const;
  Index bytes() const;

 private:
  bool master_[2] = {true, true};  // of backbone and expert
};

/// Fills a tensor from fp32 or fp64 values of its size, in each form in which it is held.
template <class R>
void assign(ModelWeights<R> const& weights, Tensor const& tensor, View1<R> const& values);

/// As the functions of parameters.hpp, into every form that is held.
template <class R>
void initialise_backbone(ParameterTable const& table, ModelConfig const& model, std::uint64_t seed,
                         ModelWeights<R> const& weights);
template <class R>
void initialise_lora(ParameterTable const& table, std::uint64_t seed, ModelWeights<R> const& weights);
template <class R>
void initialise_router(ParameterTable const& table, std::uint64_t seed, Index first_expert,
                       ModelWeights<R> const& weights);

extern template struct ModelWeights<float>;
extern template struct ModelWeights<double>;

}  // namespace upit
