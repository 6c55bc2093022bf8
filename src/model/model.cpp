// SPDX-License-Identifier: Apache-2.0
#include "upit/model/model.hpp"

#include "upit/core/error.hpp"

namespace upit {
namespace {

/// Calls f(transformer, weights of its type).
template <class Any, class R, class F>
auto with(Any& any, ModelWeights<R> const& weights, F const& f) {
  if (auto* const real = std::get_if<0>(&any)) {
    expect(weights.precision == Precision::fp32, "a model in fp32 was given bf16 weights");
    return f(*real, weights.fp32);
  }
  if constexpr (std::is_same_v<R, float>) {
    expect(weights.precision == Precision::bf16, "a model in bf16 was given fp32 weights");
    return f(std::get<1>(any), weights.bf16);
  } else {
    fail("checks in double have no 16-bit model");
  }
}

/// Calls f(transformer).
template <class Any, class F>
decltype(auto) visit(Any& any, F const& f) {
  if constexpr (std::is_same_v<std::variant_alternative_t<1, std::remove_const_t<Any>>, std::monostate>) {
    return f(std::get<0>(any));
  } else {
    return std::visit(f, any);
  }
}

}  // namespace

template <class R>
typename Model<R>::Any Model<R>::make(Precision precision, ModelConfig const& model,
                                      ExpertConfig const& expert, ParameterTable const& table,
                                      Index max_tokens, bool with_backward, ExpertParallel const& parallel) {
  if (precision == Precision::fp32) {
    return Any(std::in_place_index<0>, model, expert, table, max_tokens, with_backward, parallel);
  }
  if constexpr (std::is_same_v<R, float>) {
    return Any(std::in_place_index<1>, model, expert, table, max_tokens, with_backward, parallel);
  } else {
    fail("checks in double have no 16-bit model");
  }
}

template <class R>
Model<R>::Model(Precision precision, ModelConfig const& model, ExpertConfig const& expert,
                ParameterTable const& table, Index max_tokens, bool with_backward,
                ExpertParallel const& parallel)
    : any_(make(precision, model, expert, table, max_tokens, with_backward, parallel)) {}

template <class R>
double Model<R>::forward(Exec const& exec, ModelWeights<R> const& weights, Batch const& batch,
                         PassOptions const& options, View1<R> const& gradient) {
  return with(any_, weights,
              [&](auto& model, auto const& w) { return model.forward(exec, w, batch, options, gradient); });
}

template <class R>
void Model<R>::backward(Exec const& exec, ModelWeights<R> const& weights, Batch const& batch,
                        PassOptions const& options, std::vector<double> const& balance,
                        View1<R> const& gradient) {
  with(any_, weights,
       [&](auto& model, auto const& w) { model.backward(exec, w, batch, options, balance, gradient); });
}

template <class R>
Precision Model<R>::precision() const {
  return any_.index() == 0 ? Precision::fp32 : Precision::bf16;
}
template <class R>
RouterCounts const& Model<R>::router_counts() const {
  return visit(any_, [](auto const& m) -> RouterCounts const& { return m.router_counts(); });
}
template <class R>
ExchangeStatistics Model<R>::take_exchange_statistics() {
  return visit(any_, [](auto& m) { return m.take_exchange_statistics(); });
}
template <class R>
Index Model<R>::exchange_rounds() const {
  return visit(any_, [](auto const& m) { return m.exchange_rounds(); });
}
template <class R>
std::vector<double> const& Model<R>::received() const {
  return visit(any_, [](auto const& m) -> std::vector<double> const& { return m.received(); });
}
template <class R>
void Model<R>::set_auxiliary(AuxiliaryOptions const& options) {
  visit(any_, [&](auto& m) { m.set_auxiliary(options); });
}
template <class R>
double Model<R>::auxiliary_loss() const {
  return visit(any_, [](auto const& m) { return m.auxiliary_loss(); });
}
template <class R>
std::vector<double> Model<R>::target_nll() const {
  return visit(any_, [](auto const& m) { return m.target_nll(); });
}
template <class R>
std::vector<int> Model<R>::router_choices() const {
  return visit(any_, [](auto const& m) { return m.router_choices(); });
}
template <class R>
std::vector<double> Model<R>::router_logits() const {
  return visit(any_, [](auto const& m) { return m.router_logits(); });
}
template <class R>
Index Model<R>::bytes() const {
  return visit(any_, [](auto const& m) { return m.bytes(); });
}

template class Model<float>;
template class Model<double>;

}  // namespace upit
