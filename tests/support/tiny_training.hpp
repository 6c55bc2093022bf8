// SPDX-License-Identifier: Apache-2.0
// Owns short trainings of small models: the cases that every rank count and every restart must agree on.
#pragma once

#include <string>
#include <vector>

#include "support/tiny_data.hpp"
#include "support/tiny_model.hpp"
#include "upit/comm/collectives.hpp"
#include "upit/train/trainer.hpp"

namespace upit::test {

struct TrainingCase {
  std::string name;
  TinyCase tiny;
  Index batch = 6;        // samples a step
  Index micro_batch = 6;  // sequences a micro-step
  bool packing = false;
  double balance = 0.0;
  double auxiliary_share = 0.0;  // 1 - alpha of stage 3; negatives come from other samples
  bool zero_router = false;      // all logits tie, so that every token goes to the first K experts
  Precision precision = Precision::fp32;
  bool rounded_start = false;  // from weights that 16 bits hold exactly
};

inline constexpr Index kTrainingContext = 40;
inline constexpr double kTrainingRate = 3e-3;

/// What a training left: everything a caller can see of it.
template <class T>
struct TrainingOutcome {
  std::vector<double> loss, balance, auxiliary, norm, entropy, assigned;
  std::vector<T> weights;
  std::vector<T> gradient;  // of the first step, whole tensors in the order of the table
  Index rounds = 1;         // most that a token exchange took
  double bytes_sent = 0.0;  // to other ranks by exchanges
};

/// What of `whole` the table has: experts may be a range of them.
template <class T>
void copy_held(ParameterTable const& table, ModelWeights<T> const& to, ParameterTable const& whole_table,
               Weights<T> const& whole) {
  for (auto const& t : table.tensors()) {
    Tensor const& from = whole_table.find(t.name);
    Index const row = from.size() / from.shape.front();
    assign(to, t, View1<T>(whole.tensor(from).data() + t.first * row, t.size()));
  }
}

template <class T>
void copy_held(ParameterTable const& table, Weights<T> const& to, ParameterTable const& whole_table,
               Weights<T> const& whole) {
  copy_held(table, ModelWeights<T>(to), whole_table, whole);
}

template <class T>
TrainerOptions training_options(TrainingCase const& c) {
  TrainerOptions options;
  options.balance = c.balance;
  options.seed = 9;
  options.adamw.weight_decay = 0.01;
  options.language_weight = 1.0 - c.auxiliary_share;
  options.auxiliary_weight = c.auxiliary_share;
  options.precision = c.precision;
  return options;
}

/// Whole tensors of a group's ranks, one after the other, where each rank has `part` of its own: of the
/// gradient or of weights. Parts of FFN experts meet by a sum in which the other ranks have zero.
template <class T>
std::vector<T> gather_gradient(ParameterTable const& table, ParameterTable const& whole, View1<T> const& part,
                               ExpertParallel const& parallel) {
  std::vector<T> all;
  for (auto const& t : table.tensors()) {
    if (t.gradient_offset < 0) continue;
    Tensor const& w = whole.find(t.name);
    View1<T> const tensor("gathered", w.size());
    Kokkos::deep_copy(View1<T>(tensor.data() + t.first * (w.size() / w.shape.front()), t.size()),
                      View1<T>(part.data() + t.gradient_offset, t.size()));
    if (parallel.spread() && t.group == Group::expert) sum(parallel.grid->expert(), Exec(), tensor);
    auto const values = flat(tensor);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

template <class T>
TrainingOutcome<T> train(Communicator const& comm, TrainingCase const& c, Index steps,
                         ExpertParallel const& parallel = {}) {
  TokenStore const store = tiny_store(14, c.tiny.model.vocabulary, 2, kTrainingContext + 1);
  BatchPlan const plan(store, kTrainingContext, c.packing, c.batch, c.micro_batch, 4);
  Trainer<T> trainer(comm, c.tiny.model, c.tiny.expert, c.tiny.trained, plan.max_tokens_per_rank(comm.size()),
                     training_options<T>(c), parallel);
  ParameterTable const whole(c.tiny.model, c.tiny.expert, c.tiny.trained);
  auto const start = random_weights<T>(whole, 5);
  if (c.zero_router) Kokkos::deep_copy(start.router, Real<T>(0));
  if (c.rounded_start) {
    for (auto const& buffer : {start.backbone, start.expert}) {
      std::vector<T> values = flat(buffer);
      for (T& value : values) value = static_cast<T>(static_cast<float>(bfloat16(value)));
      put_all(buffer.data(), values);
    }
  }
  copy_held(trainer.table(), trainer.values(), whole, start);
  TrainingOutcome<T> out;
  for (Index s = 0; s < steps; ++s) {
    auto const micro = plan.step(s, 3, comm.size(), false);
    auto const negatives =
        c.auxiliary_share > 0.0 ? plan.step(s + 100, 3, comm.size(), false) : std::vector<MicroStep>();
    StepReport const report = trainer.step(store, micro, s, kTrainingRate, negatives);
    if (s == 0) out.gradient = gather_gradient(trainer.table(), whole, trainer.gradient(), parallel);
    out.loss.push_back(report.loss);
    out.balance.push_back(report.balance);
    out.auxiliary.push_back(report.auxiliary);
    out.norm.push_back(report.norm);
    out.bytes_sent += report.exchange.bytes;
    out.entropy.push_back(report.load.entropy);
    out.assigned.insert(out.assigned.end(), report.load.assigned.begin(), report.load.assigned.end());
  }
  // Whole tensors on every rank: each brings its part, the other ranks' parts are zero.
  Weights<T> const all(whole);
  for (auto const& t : trainer.table().tensors()) {
    if (!trainer.values().in_fp32(t.group)) continue;  // frozen and rounded: nothing that training left
    Tensor const& to = whole.find(t.name);
    Index const row = to.size() / to.shape.front();
    Kokkos::deep_copy(View1<T>(all.tensor(to).data() + t.first * row, t.size()), trainer.weights().tensor(t));
  }
  if (parallel.spread()) sum(parallel.grid->expert(), Exec(), all.expert);
  out.weights = flat(all);
  out.rounds = trainer.model().exchange_rounds();
  return out;
}

inline std::vector<TrainingCase> training_cases() {
  auto const topk = RouterOrder::topk_softmax, first = RouterOrder::softmax_topk;
  Trained const all{true, true, true}, experts{false, true, true}, lora{false, true, false},
      dense{true, false, false};
  auto const dropped = [](ExpertConfig e, double p) {
    e.dropout = p;
    return e;
  };
  std::vector<TrainingCase> list;
  list.push_back({"dense", {tiny_model(true, 2), {}, dense}});
  list.push_back({"dense_accumulated", {tiny_model(false, 4), {}, dense}, 6, 2});
  ExpertConfig const one = dropped(tiny_experts(1, 1, LoraMix::branch, topk), 0.1);
  list.push_back({"lora", {tiny_model(true, 2), one, lora}, 6, 3});
  list.push_back({"lora_packed", {tiny_model(true, 2), one, lora}, 8, 2, true});
  list.push_back({"lora_one_sequence", {tiny_model(true, 2), one, lora}, 2, 1});
  for (auto const mix : {LoraMix::branch, LoraMix::ffn}) {
    std::string const name = mix == LoraMix::branch ? "branch" : "ffn";
    list.push_back({name,
                    {tiny_model(true, 2), dropped(tiny_experts(5, 2, mix, topk), 0.1), experts},
                    6,
                    3,
                    false,
                    0.1});
    list.push_back(
        {name + "_all", {tiny_model(false, 2), tiny_experts(4, 3, mix, first), all}, 5, 3, true, 0.2});
  }
  list.push_back({"ffn_experts", {tiny_model(true, 2), tiny_ffn_experts(5, 2, topk), all}, 6, 3, false, 0.1});
  list.push_back({"ffn_experts_one",
                  {tiny_model(true, 2), tiny_ffn_experts(1, 1, topk, RouterUse::none), {true, true, false}}});
  ExpertConfig auxiliary = one;
  auxiliary.router = RouterUse::auxiliary;
  list.push_back({"auxiliary", {tiny_model(true, 2), auxiliary, experts}, 4, 3, false, 0.0, 0.5});
  return list;
}

/// The same cases, computed in 16 bits.
inline std::vector<TrainingCase> bf16_cases() {
  std::vector<TrainingCase> list = training_cases();
  for (auto& c : list) {
    c.name += "_bf16";
    c.precision = Precision::bf16;
  }
  return list;
}

}  // namespace upit::test
