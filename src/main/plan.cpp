// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "upit/comm/rank_grid.hpp"
#include "upit/core/error.hpp"
#include "upit/kernels/adamw.hpp"
#include "upit/model/model.hpp"
#include "upit/model/product_memory.hpp"
#include "upit/text/batches.hpp"
#include "upit/upcycle/base_shapes.hpp"
#include "upit/upcycle/buckets.hpp"
#include "upit/upcycle/outlook.hpp"
#include "upit/upcycle/run.hpp"
#include "upit/upcycle/training.hpp"

namespace upit {
namespace {

constexpr Index kStates = 3;  // two are kept, and a third is written before the oldest goes
constexpr auto kFloat = static_cast<Index>(sizeof(float));

/// Bytes of a model's workspace. Layers are alike, so two small models tell the size of a large one; pages of
/// theirs are never touched.
Index workspace_bytes(Precision precision, ModelConfig model, ExpertConfig const& expert, Index tokens,
                      bool with_backward) {
  auto const bytes = [&](Index layers) {
    ModelConfig m = model;
    m.layers = layers;
    ParameterTable const table(m, expert);
    return Model<float>(precision, m, expert, table, std::max<Index>(tokens, 1), with_backward).bytes();
  };
  Index const one = bytes(1);
  return one + (model.layers - 1) * (bytes(2) - one);
}

/// The same on the rank that holds most FFN experts of a group.
Index spread_workspace_bytes(Deck const& deck, ModelConfig const& model, ExpertConfig const& expert,
                             Index tokens, bool with_backward) {
  Precision const precision = upcycle::precision_of(deck);
  Index const whole = workspace_bytes(precision, model, expert, tokens, with_backward);
  Index const ranks = deck.parallel.expert;
  if (!expert.mixes_ffns() || ranks == 1) return whole;
  Index const slots = std::max<Index>(tokens, 1) * expert.active;
  auto const first = expert_ranges(expert.count, ranks);
  ExchangeShape const shape = {first, slots, deck.parallel.capacity, deck.parallel.chunks};
  Index rows = 0;
  for (Index q = 0; q < ranks; ++q) rows = std::max(rows, exchange_capacity(shape, q));
  auto const bytes = precision == Precision::bf16 ? expert_bytes<bfloat16> : expert_bytes<float>;
  auto const alone = bytes(model, expert, slots, slots, false, with_backward);
  auto const among = bytes(model, expert, slots, rows, true, with_backward);
  Index const layers = with_backward ? model.layers : 1;
  return whole + layers * (among.per_layer - alone.per_layer) + among.once - alone.once;
}

/// The most FFN experts that a rank holds; all experts of the other kind.
ExpertRange most_held(Deck const& deck, ExpertConfig const& expert) {
  if (!expert.mixes_ffns()) return {};
  return {0, (expert.count + deck.parallel.expert - 1) / deck.parallel.expert};
}

/// Bytes of an activation, and of a weight to compute with.
Index value_bytes(Deck const& deck) {
  return upcycle::precision_of(deck) == Precision::bf16 ? static_cast<Index>(sizeof(bfloat16)) : kFloat;
}

/// As ModelWeights holds them: rounded values to compute with, and fp32 where they are trained.
Index weight_bytes(Deck const& deck, ParameterTable const& table) {
  Index bytes = kFloat * table.extent(Group::router);
  for (Group const group : {Group::backbone, Group::expert}) {
    bool const masters = value_bytes(deck) != kFloat && table.trained()[group];
    bytes += (value_bytes(deck) + (masters ? kFloat : 0)) * table.extent(group);
  }
  return bytes;
}

/// What a rank sends for the sum over `ranks` of so many bytes.
Index ring_bytes(Index bytes, Index ranks) { return 2 * bytes * (ranks - 1) / ranks; }

class Planner {
 public:
  Planner(Deck const& deck, Index ranks);
  RunPlan take() { return std::move(plan_); }

 private:
  void pretrain(Tokenizer const& tokenizer);
  void prepare();
  void expand();
  void route();
  void assemble();
  void post_train();
  void evaluate();
  StagePlan training(std::string name, BatchPlan const& batches, double epochs, ExpertConfig const& expert,
                     Trained trained, Index ranks) const;
  BatchPlan batches() const {
    return BatchPlan(data_.train, deck_.data.context, deck_.data.packing, deck_.train.batch,
                     deck_.train.micro_batch, deck_.run.seed);
  }

  Deck const& deck_;
  Index ranks_;
  Dataset data_;
  RunPlan plan_;
  Index expert_file_ = 0;  // bytes of a checkpoint or merged expert on disk
};

Planner::Planner(Deck const& deck, Index ranks) : deck_(deck), ranks_(ranks) {
  auto const tokenizer = make_tokenizer(deck.data.tokenizer);
  data_ = load_dataset(deck.data, *tokenizer, deck.run.seed);
  upcycle::check_outlook(deck, data_);
  plan_.warnings = upcycle::outlook_warnings(deck, data_);
  plan_.data = data_.report;
  plan_.model = upcycle::base_shapes(deck, *tokenizer);
  plan_.training_samples = data_.train.size();
  plan_.held_out_samples = data_.held_out.size();
  plan_.longest = std::max(data_.train.longest(), data_.held_out.longest());
  plan_.domains = data_.train.domains;
  for (auto const* store : {&data_.train, &data_.held_out}) {
    plan_.text_bytes +=
        static_cast<Index>(store->tokens.size() * sizeof(int) + store->samples.size() * sizeof(TokenSample));
  }
  ParameterTable const moe(plan_.model, upcycle::moe_experts(deck, deck.expert.count));
  plan_.backbone = moe.count(Group::backbone);
  plan_.experts = moe.count(Group::expert);
  plan_.routers = moe.count(Group::router);
  plan_.one_expert = plan_.experts / deck.expert.count;
  expert_file_ = kFloat * (plan_.one_expert + (upcycle::has_ffn_experts(deck) ? plan_.backbone : 0));

  pretrain(*tokenizer);
  prepare();
  expand();
  route();
  assemble();
  post_train();
  evaluate();
}

StagePlan Planner::training(std::string name, BatchPlan const& batches, double epochs,
                            ExpertConfig const& expert, Trained trained, Index ranks) const {
  StagePlan s;
  s.name = std::move(name);
  s.steps = batches.steps(epochs);
  s.passes = std::ssize(batches.step(0, 0, static_cast<int>(ranks), true));
  s.tokens = batches.max_tokens_per_rank(static_cast<int>(ranks));
  s.trained = ParameterTable(plan_.model, expert, trained).trained_count();
  ParameterTable const table(plan_.model, expert, trained, most_held(deck_, expert));
  Index const gradient = table.gradient_extent();
  // Gradient and two moments in fp32; the blocks of the norm.
  s.memory = weight_bytes(deck_, table) + 3 * kFloat * gradient +
             static_cast<Index>(sizeof(double)) * kernels::squared_norm_blocks(gradient) +
             spread_workspace_bytes(deck_, plan_.model, expert, s.tokens, true) +
             product_bytes(upcycle::precision_of(deck_), plan_.model, expert, table, s.tokens, true);
  Index const experts = table.gradient_of(Group::expert).count;
  Index const holders = expert.mixes_ffns() ? ranks / deck_.parallel.expert : ranks;
  s.sent = ring_bytes(kFloat * (gradient - experts), ranks) + ring_bytes(kFloat * experts, holders);
  s.temporary = kStates * 3 * kFloat * s.trained;
  return s;
}

void Planner::pretrain(Tokenizer const& tokenizer) {
  if (!deck_.model.base.empty()) return;
  TokenStore const documents =
      pretrain_documents(deck_.pretrain, deck_.data.context, tokenizer, deck_.run.seed);
  BatchPlan const batches(documents, deck_.data.context, false, deck_.pretrain.batch,
                          std::min(deck_.train.micro_batch, deck_.pretrain.batch), deck_.run.seed);
  StagePlan s = training("pretrain", batches, deck_.pretrain.epochs, {}, {true, false, false}, ranks_);
  s.files = kFloat * plan_.backbone;
  plan_.stages.push_back(s);
}

void Planner::prepare() {
  StagePlan s =
      training("prepare", batches(), deck_.prepare.epochs, upcycle::single_expert(deck_, RouterUse::none),
               upcycle::dense_trained(deck_), ranks_);
  Index const m = deck_.prepare.checkpoints;
  s.files = expert_file_ * (2 * m + 1);  // and the base
  plan_.stages.push_back(s);
}

void Planner::expand() {
  StagePlan s;
  s.name = "expand";
  s.files = expert_file_ * (deck_.expert.count - deck_.prepare.checkpoints);
  plan_.stages.push_back(s);
}

void Planner::route() {
  if (deck_.route.data == "none") return;
  Index const n = deck_.expert.count;
  auto const seeds =
      upcycle::seed_set(data_.train.size(), deck_.route.seed_fraction, deck_.route.seed_min, deck_.run.seed);
  auto const count = static_cast<Index>(seeds.size());
  // As ExpertGroups spreads them; the smallest group has the most to hold.
  Index const group = ranks_ / std::min(n, ranks_);
  Index const micro_batch = std::max<Index>(1, deck_.train.micro_batch * group / ranks_);
  auto const batches_of = [&](std::vector<Index> samples) {
    return BatchPlan(data_.train, std::move(samples), deck_.data.context, deck_.data.packing,
                     deck_.route.batch, micro_batch, deck_.run.seed);
  };
  // Which samples an expert gets is not known yet: memory is that of the longest seeds, steps those of a full
  // bucket.
  StagePlan s = training("route", batches_of(seeds), 1.0, upcycle::single_expert(deck_, RouterUse::auxiliary),
                         {false, true, true}, group);
  s.runs = n;
  s.steps = upcycle::route_steps(deck_, data_.train);
  s.files = kFloat * s.trained * n + static_cast<Index>(sizeof(double)) * count * n;
  s.temporary = 0;
  plan_.stages.push_back(s);
}

void Planner::assemble() {
  StagePlan s;
  s.name = "upcycle";
  s.files = kFloat * (plan_.backbone + plan_.experts + plan_.routers);
  // LoRA experts are put together in memory, FFN experts stream from file to file.
  if (!upcycle::has_ffn_experts(deck_)) s.memory = s.files + kFloat * (plan_.backbone + plan_.one_expert);
  plan_.stages.push_back(s);
}

void Planner::post_train() {
  StagePlan s =
      training("post_train", batches(), deck_.post_train.epochs,
               upcycle::moe_experts(deck_, deck_.expert.count), upcycle::moe_trained(deck_), ranks_);
  // Load, probabilities and entropy of the routers meet once in every pass.
  Index const counts = plan_.model.layers * (2 * deck_.expert.count + 1) + 1;
  s.sent += s.passes * ring_bytes(static_cast<Index>(sizeof(double)) * counts, ranks_);
  Index const group = deck_.parallel.expert;
  if (group > 1) {
    // Four times a layer a slot's row travels, forward and back, unless its expert is at home.
    Index const slots = s.tokens * deck_.post_train.top_k;
    s.sent += s.passes * 4 * plan_.model.layers * slots * plan_.model.width * value_bytes(deck_) *
              (group - 1) / group;
  }
  s.files = kFloat * (plan_.backbone + plan_.experts + plan_.routers);
  plan_.stages.push_back(s);
}

void Planner::evaluate() {
  StagePlan s;
  s.name = "evaluate";
  ExpertConfig const expert = upcycle::moe_experts(deck_, deck_.expert.count);
  Index const sequences = std::min(deck_.evaluate.micro_batch, data_.held_out.size());
  s.tokens = (sequences + ranks_ - 1) / ranks_ * data_.held_out.longest();
  ParameterTable const table(plan_.model, expert, {}, most_held(deck_, expert));
  s.memory = weight_bytes(deck_, table) +
             spread_workspace_bytes(deck_, plan_.model, expert, s.tokens, false) +
             product_bytes(upcycle::precision_of(deck_), plan_.model, expert, table, s.tokens, false);
  plan_.stages.push_back(s);
}

}  // namespace

Index RunPlan::memory() const {
  Index most = 0;
  for (auto const& s : stages) most = std::max(most, s.memory);
  return most + text_bytes;
}

Index RunPlan::disk() const {
  Index kept = 0, most = 0;
  for (auto const& s : stages) {
    most = std::max(most, kept + s.files + s.temporary);
    kept += s.files;
  }
  return std::max(most, kept);
}

RunPlan make_plan(Deck const& deck, Index ranks) { return Planner(deck, ranks).take(); }

}  // namespace upit
