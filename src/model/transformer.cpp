// SPDX-License-Identifier: Apache-2.0
#include "upit/model/transformer.hpp"

#include <algorithm>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"
#include "upit/kernels/attention_softmax.hpp"
#include "upit/kernels/elementwise.hpp"
#include "upit/kernels/embedding.hpp"
#include "upit/kernels/gather.hpp"
#include "upit/kernels/rmsnorm.hpp"
#include "upit/kernels/rotary.hpp"
#include "upit/kernels/router.hpp"
#include "upit/model/blocked_attention.hpp"
#include "upit/model/ffn_block.hpp"
#include "upit/model/head.hpp"
#include "upit/model/products.hpp"

namespace upit {

template <class T>
struct Transformer<T>::Impl {
  using R = Real<T>;

  Impl(ModelConfig const& m, ExpertConfig const& e, ParameterTable const& t, Index max_tokens,
       bool with_backward, ExpertParallel const& parallel);

  double forward(Exec const& exec, Weights<T> const& weights, Batch const& batch, PassOptions const& options,
                 View1<R> const& gradient);
  void backward(Exec const& exec, Weights<T> const& weights, Batch const& batch, PassOptions const& options,
                std::vector<double> const& balance, View1<R> const& gradient);
  void attend(Exec const& exec, LayerParameters<T> const& p, LayerState<T> const& s, Scratch<T> const& t,
              Batch const& batch);
  void attend_backward(Exec const& exec, LayerParameters<T> const& p, LayerState<T> const& s,
                       Scratch<T> const& t, Batch const& batch);
  FfnPass<T> ffn_pass(Exec const& exec, LayerParameters<T> const& p, LayerState<T> const& s,
                      Scratch<T> const& t, Batch const& batch, PassOptions const& options, int layer);
  void gather_statistics(Exec const& exec, LayerState<T> const& s, Index layer);
  void fetch_statistics(Exec const& exec);
  void read_statistics();
  View1<T const> norm_weight(Parameter<T> const& p) const { return View1<T const>(p.weight, model.width); }
  void norm_backward(Exec const& exec, View2<T> const& dy, View2<T> const& x, Parameter<T> const& weight,
                     View1<R> const& rstd, View2<T> const& dx) const;

  ModelConfig model;
  ExpertConfig expert;
  ParameterTable const& table;
  Index max_tokens;
  bool with_backward;
  std::vector<LayerTensors> tensors;
  Tensor const &embedding_tensor, &norm_tensor;
  Tensor const& head_tensor;  // the embedding if the two are tied
  Workspace<T> workspace;
  std::unique_ptr<FfnExperts<T>> experts;  // null unless a router chooses among FFNs
  ModelAttention<T> attention;
  Head<T> head;
  View2<R> cosine, sine;                // (context, D/2)
  View2<T> x_final, y_final;            // (N, C) before and after the last norm
  View1<R> rstd_final;                  // (N)
  View1<double> statistics;             // the four that follow, one after the other
  View2<double> assigned, probability;  // (L, E)
  View2<double> entropy;                // (L, 1)
  View1<double> auxiliary_sum;          // (1)
  PinnedView1<double> statistics_host;
  View1<R> balance_device;  // (L * E)
  PinnedView1<R> balance_host;
  AuxiliaryOptions auxiliary;
  RouterCounts counts;
  double auxiliary_host = 0.0;
};

template <class T>
Transformer<T>::Impl::Impl(ModelConfig const& m, ExpertConfig const& e, ParameterTable const& t, Index max,
                           bool backward, ExpertParallel const& parallel)
    : model(m),
      expert(e),
      table(t),
      max_tokens(max),
      with_backward(backward),
      embedding_tensor(t.find("embedding")),
      norm_tensor(t.find("norm")),
      head_tensor(m.tied ? embedding_tensor : t.find("head")),
      workspace(m, e, max, backward),
      experts(e.mixes_ffns() ? std::make_unique<FfnExperts<T>>(m, e, parallel, max, backward) : nullptr),
      attention(m, std::min(m.context, max), backward),
      head(m, max, backward),
      cosine("upit::rotary.cosine", m.context, m.head_width / 2),
      sine("upit::rotary.sine", m.context, m.head_width / 2),
      x_final("upit::x_final", max, m.width),
      y_final("upit::y_final", max, m.width),
      rstd_final("upit::rstd_final", max),
      statistics("upit::router.statistics", m.layers * (2 * e.count + 1) + 1),
      assigned(statistics.data(), m.layers, e.count),
      probability(assigned.data() + assigned.size(), m.layers, e.count),
      entropy(probability.data() + probability.size(), m.layers, 1),
      auxiliary_sum(entropy.data() + entropy.size(), 1),
      statistics_host("upit::router.statistics_host", statistics.size()),
      balance_device("upit::router.balance", m.layers * e.count),
      balance_host("upit::router.balance_host", m.layers * e.count) {
  for (int l = 0; l < m.layers; ++l) tensors.emplace_back(t, l);
  Exec const exec;
  kernels::rotary_table<R>(exec, m.rope_theta, cosine, sine);
  exec.fence();
}

template <class T>
FfnPass<T> Transformer<T>::Impl::ffn_pass(Exec const& exec, LayerParameters<T> const& p,
                                          LayerState<T> const& s, Scratch<T> const& t, Batch const& batch,
                                          PassOptions const& options, int layer) {
  double const drop = options.train ? expert.dropout : 0.0;
  return {exec,
          model,
          expert,
          p,
          s,
          t,
          batch,
          drop,
          random_key(options.seed, "dropout", options.step, layer, 0),
          random_key(options.seed, "dropout", options.step, layer, 1),
          layer,
          experts.get()};
}

template <class T>
void Transformer<T>::Impl::attend(Exec const& exec, LayerParameters<T> const& p, LayerState<T> const& s,
                                  Scratch<T> const& t, Batch const& batch) {
  ProfilingRegion const region("upit::attend");
  linear<T>(exec, s.h_attention, p.qkv.weight, s.qkv);
  kernels::rotary_forward<T>(exec, batch.position(), cosine, sine, model.heads + model.kv_heads, s.qkv);
  attention.forward(exec, s.qkv, batch.start(), s.attended, s.log_sum_exp);
  linear<T>(exec, s.attended, p.out.weight, t.branch);
}

template <class T>
double Transformer<T>::Impl::forward(Exec const& exec, Weights<T> const& weights, Batch const& batch,
                                     PassOptions const& options, View1<R> const& gradient) {
  ProfilingRegion const region("upit::forward");
  Index const n = batch.tokens();
  expect(n <= max_tokens, "a batch holds more tokens than the model's workspace");
  expect(!options.train || with_backward, "training needs a workspace with backward");
  counts.tokens = static_cast<double>(n);
  auto const eps = static_cast<R>(model.norm_eps);
  Scratch<T> const t = workspace.scratch(n);
  View2<T const> const embedding_rows(weights.backbone.data() + embedding_tensor.offset, model.vocabulary,
                                      model.width);
  if (expert.router == RouterUse::auxiliary) Kokkos::deep_copy(exec, auxiliary_sum, 0.0);
  LayerState<T> s = workspace.layer(0, n);
  kernels::embedding_forward<T>(exec, batch.token(), embedding_rows, s.x);
  for (int l = 0; l < model.layers; ++l) {
    Kokkos::Profiling::pushRegion("upit::layer_forward");
    auto const p = layer_parameters(tensors[static_cast<std::size_t>(l)], weights, gradient);
    if (l == 0) {
      kernels::rmsnorm_forward<T>(exec, s.x, norm_weight(p.attention_norm), eps, s.h_attention,
                                  s.rstd_attention);
    } else {
      LayerState<T> const before = s;
      s = workspace.layer(l, n);
      kernels::add_rmsnorm_forward<T>(exec, before.x_middle, t.branch, norm_weight(p.attention_norm), eps,
                                      s.x, s.h_attention, s.rstd_attention);
    }
    attend(exec, p, s, t, batch);
    kernels::add_rmsnorm_forward<T>(exec, s.x, t.branch, norm_weight(p.ffn_norm), eps, s.x_middle, s.h,
                                    s.rstd_ffn);
    ffn_forward(ffn_pass(exec, p, s, t, batch, options, l));
    if (expert.router != RouterUse::none) gather_statistics(exec, s, l);
    Kokkos::Profiling::popRegion();
  }
  if (expert.router != RouterUse::none) fetch_statistics(exec);  // the head waits for them too
  Kokkos::Profiling::pushRegion("upit::head");
  auto const norm = backbone_parameter(norm_tensor, weights, gradient);
  View2<T> const x = first_rows(x_final, n), y = first_rows(y_final, n);
  kernels::add_rmsnorm_forward<T>(exec, s.x_middle, t.branch, norm_weight(norm), eps, x, y,
                                  first_rows(rstd_final, n));
  auto const head_parameter = backbone_parameter(head_tensor, weights, gradient);
  double const sum =
      head.forward(exec, y, head_parameter, batch, options.loss_scale, options.train ? &t.dh : nullptr);
  Kokkos::Profiling::popRegion();
  if (expert.router != RouterUse::none) read_statistics();
  return sum;
}

template <class T>
void Transformer<T>::Impl::gather_statistics(Exec const& exec, LayerState<T> const& s, Index layer) {
  if (expert.router == RouterUse::gate) {
    auto const row = [layer](View2<double> const& v) {
      auto const columns = static_cast<Index>(v.extent(1));
      return View1<double>(v.data() + layer * columns, columns);
    };
    kernels::router_statistics<R>(exec, s.expert, s.probability, row(assigned), row(probability),
                                  row(entropy));
    return;
  }
  // One row, so the (N, 1) buffers are vectors; the gradient waits for backward where a gate's softmax would
  // be.
  View1<R const> const logit(s.logits.data(), s.logits.extent(0));
  View1<R> const dlogit(s.probability.data(), s.probability.extent(0));
  kernels::auxiliary_router<R>(exec, logit, auxiliary.positive, static_cast<R>(auxiliary.weight), dlogit,
                               auxiliary_sum);
}

template <class T>
void Transformer<T>::Impl::fetch_statistics(Exec const& exec) {
  Kokkos::deep_copy(exec, statistics_host, statistics);
}

/// After a wait for what `fetch_statistics` has enqueued.
template <class T>
void Transformer<T>::Impl::read_statistics() {
  double const* const host = statistics_host.data();
  auto const read = [&](View2<double> const& view, std::vector<double>& out) {
    double const* const from = host + (view.data() - statistics.data());
    out.assign(from, from + view.size());
  };
  if (expert.router == RouterUse::gate) {
    read(assigned, counts.assigned);
    read(probability, counts.probability);
    read(entropy, counts.entropy);
  } else {
    auxiliary_host = statistics_host(auxiliary_sum.data() - statistics.data());
  }
}

template <class T>
void Transformer<T>::Impl::norm_backward(Exec const& exec, View2<T> const& dy, View2<T> const& x,
                                         Parameter<T> const& weight, View1<R> const& rstd,
                                         View2<T> const& dx) const {
  if (weight.trained()) {
    kernels::rmsnorm_backward_weight<T>(exec, dy, x, rstd, View1<R>(weight.gradient, model.width));
  }
  kernels::rmsnorm_backward<T>(exec, dy, x, norm_weight(weight), rstd, dx);
}

template <class T>
void Transformer<T>::Impl::attend_backward(Exec const& exec, LayerParameters<T> const& p,
                                           LayerState<T> const& s, Scratch<T> const& t, Batch const& batch) {
  ProfilingRegion const region("upit::attend_backward");
  linear_backward_weight<T>(exec, t.dx, s.attended, p.out.gradient);
  linear_backward<T>(exec, t.dx, p.out.weight, t.dattended);
  kernels::attention_delta<T>(exec, s.attended, t.dattended, model.heads, t.delta);
  attention.backward(exec, s.qkv, batch.start(), s.log_sum_exp, t.dattended, t.delta, t.dqkv);
  kernels::rotary_backward<T>(exec, batch.position(), cosine, sine, model.heads + model.kv_heads, t.dqkv);
  linear_backward_weight<T>(exec, t.dqkv, s.h_attention, p.qkv.gradient);
  linear_backward<T>(exec, t.dqkv, p.qkv.weight, t.dh);
}

template <class T>
void Transformer<T>::Impl::backward(Exec const& exec, Weights<T> const& weights, Batch const& batch,
                                    PassOptions const& options, std::vector<double> const& balance,
                                    View1<R> const& gradient) {
  ProfilingRegion const region("upit::backward");
  Index const n = batch.tokens();
  Scratch<T> const t = workspace.scratch(n);
  if (!balance.empty()) {
    expect(balance.size() == balance_host.size(), "balance coefficients have shape (L, E)");
    std::copy(balance.begin(), balance.end(), balance_host.data());
    Kokkos::deep_copy(exec, balance_device, balance_host);
  }
  bool const below = table.trained().backbone;  // experts and routers stand in every layer
  kernels::fill<T>(exec, t.dx, T(0));
  auto const norm = backbone_parameter(norm_tensor, weights, gradient);
  norm_backward(exec, t.dh, first_rows(x_final, n), norm, first_rows(rstd_final, n), t.dx);
  for (int l = static_cast<int>(model.layers) - 1; l >= 0; --l) {
    Kokkos::Profiling::pushRegion("upit::layer_backward");
    LayerState<T> const s = workspace.layer(l, n);
    auto const p = layer_parameters(tensors[static_cast<std::size_t>(l)], weights, gradient);
    bool const go_on = below || l > 0;
    View1<R> const coefficient(balance_device.data() + l * expert.count, balance.empty() ? 0 : expert.count);
    FfnPass<T> const pass = ffn_pass(exec, p, s, t, batch, options, l);
    if (expert.router == RouterUse::auxiliary) {
      Kokkos::deep_copy(exec, elements(t.dlogits), elements(s.probability));
    }
    ffn_backward(pass, coefficient, go_on);
    if (go_on) {
      norm_backward(exec, t.dh, s.x_middle, p.ffn_norm, s.rstd_ffn, t.dx);
      attend_backward(exec, p, s, t, batch);
      norm_backward(exec, t.dh, s.x, p.attention_norm, s.rstd_attention, t.dx);
    }
    Kokkos::Profiling::popRegion();
  }
  auto const e = backbone_parameter(embedding_tensor, weights, gradient);
  if (e.trained()) {
    kernels::embedding_backward<T>(exec, batch.token(), t.dx,
                                   View2<R>(e.gradient, model.vocabulary, model.width));
  }
}

template <class T>
Transformer<T>::Transformer(ModelConfig const& model, ExpertConfig const& expert, ParameterTable const& table,
                            Index max_tokens, bool with_backward, ExpertParallel const& parallel)
    : impl_(std::make_unique<Impl>(model, expert, table, max_tokens, with_backward, parallel)) {}
template <class T>
Transformer<T>::~Transformer() = default;
template <class T>
Transformer<T>::Transformer(Transformer&&) noexcept = default;
template <class T>
Transformer<T>& Transformer<T>::operator=(Transformer&&) noexcept = default;

template <class T>
double Transformer<T>::forward(Exec const& exec, Weights<T> const& weights, Batch const& batch,
                               PassOptions const& options, View1<Real<T>> const& gradient) {
  return impl_->forward(exec, weights, batch, options, gradient);
}

template <class T>
void Transformer<T>::backward(Exec const& exec, Weights<T> const& weights, Batch const& batch,
                              PassOptions const& options, std::vector<double> const& balance,
                              View1<Real<T>> const& gradient) {
  impl_->backward(exec, weights, batch, options, balance, gradient);
}

template <class T>
RouterCounts const& Transformer<T>::router_counts() const {
  return impl_->counts;
}

template <class T>
ExchangeStatistics Transformer<T>::take_exchange_statistics() {
  return impl_->experts ? impl_->experts->take_statistics() : ExchangeStatistics{};
}

template <class T>
Index Transformer<T>::exchange_rounds() const {
  return impl_->experts ? impl_->experts->rounds() : 1;
}

template <class T>
std::vector<double> const& Transformer<T>::received() const {
  static std::vector<double> const kNone;
  return impl_->experts ? impl_->experts->received() : kNone;
}

template <class T>
void Transformer<T>::set_auxiliary(AuxiliaryOptions const& options) {
  impl_->auxiliary = options;
}

template <class T>
double Transformer<T>::auxiliary_loss() const {
  return impl_->auxiliary_host;
}

template <class T>
std::vector<double> Transformer<T>::target_nll() const {
  return impl_->head.nll();
}

template <class T>
std::vector<int> Transformer<T>::router_choices() const {
  std::vector<int> choices;
  auto const n = static_cast<Index>(impl_->counts.tokens);
  for (Index l = 0; l < impl_->model.layers; ++l) {
    auto const expert = impl_->workspace.layer(l, n).expert;
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), elements(expert));
    choices.insert(choices.end(), host.data(), host.data() + host.size());
  }
  return choices;
}

template <class T>
std::vector<double> Transformer<T>::router_logits() const {
  std::vector<double> logits;
  if (impl_->expert.router == RouterUse::none) return logits;
  for (Index l = 0; l < impl_->model.layers; ++l) {
    auto const layer = impl_->workspace.layer(l, static_cast<Index>(impl_->counts.tokens)).logits;
    auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), elements(layer));
    logits.insert(logits.end(), host.data(), host.data() + host.size());
  }
  return logits;
}

template <class T>
std::vector<double> Transformer<T>::logits(Exec const& exec, Weights<T> const& weights,
                                           std::vector<int> const& row) {
  Impl& m = *impl_;
  auto const n = static_cast<Index>(row.size());
  View1<int> const rows("upit::logits.rows", n);
  auto const rows_host = Kokkos::create_mirror_view(rows);
  for (Index i = 0; i < n; ++i) rows_host(i) = row[static_cast<std::size_t>(i)];
  Kokkos::deep_copy(rows, rows_host);
  View2<T> const x("upit::logits.x", n, m.model.width);
  View2<Real<T>> const out("upit::logits.out", n, m.model.vocabulary);
  kernels::gather_rows<T>(exec, first_rows(m.y_final, static_cast<Index>(m.counts.tokens)), rows, x);
  Tensor const& tensor = m.table.find(m.model.tied ? "embedding" : "head");
  linear<T>(exec, x, weights.backbone.data() + tensor.offset, out);
  exec.fence();
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace(), elements(out));
  return std::vector<double>(host.data(), host.data() + host.size());
}

template <class T>
Index Transformer<T>::bytes() const {
  auto const final_bytes = (impl_->x_final.span() + impl_->y_final.span()) * sizeof(T) +
                           impl_->rstd_final.span() * sizeof(Real<T>);
  return impl_->workspace.bytes() + impl_->attention.bytes() + impl_->head.bytes() +
         (impl_->experts ? impl_->experts->bytes() : 0) + static_cast<Index>(final_bytes);
}

template class Transformer<float>;
template class Transformer<double>;
template class Transformer<bfloat16>;

}  // namespace upit
