// SPDX-License-Identifier: Apache-2.0
#include "upit/upcycle/run.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "upit/config/printer.hpp"

namespace upit::upcycle {
namespace {

/// Every column that any stage fills; a file whose columns change could not be continued.
std::vector<std::string> metric_columns() {
  return {"loss",      "learning_rate",  "norm",           "tokens_per_second", "seconds",
          "auxiliary", "balance",        "entropy",        "imbalance",         "dead",
          "targets",   "rank_imbalance", "exchange_bytes", "exchange_seconds",  "exchange_share"};
}

constexpr double kReserveSeconds = 5.0;  // kept of a time limit at least, for the last file

}  // namespace

Run::Run(Deck const& deck, Communicator const& world, Console& console, RunOptions const& options)
    : deck_(deck),
      world_(&world),
      grid_(world, deck.parallel.expert),
      console_(&console),
      options_(options),
      time_limit_(deck.run.time_limit) {
  directory_ = std::make_unique<RunDirectory>(deck_.run.directory, world);
  world.agree([&] {
    tokenizer_ = make_tokenizer(deck_.data.tokenizer);
    tokenizer_hash_ = tokenizer_hash(deck_.data.tokenizer);
    data_ = load_dataset(deck_.data, *tokenizer_, deck_.run.seed);
  });
  world.agree_on_root([&] {
    if (world.root()) metrics_.emplace(directory_->path("metrics.csv"), metric_columns());
  });
}

void Run::metric(std::string_view stage, Index step, std::initializer_list<MetricsFile::Cell> cells) {
  if (metrics_) metrics_->append(stage, step, cells);
}

bool Run::has_reason_to_stop(double reserve) {
  if (time_limit_.reached(std::max(reserve, kReserveSeconds))) reason_ = std::max(reason_, 1.0);
  if (stop_requested()) reason_ = 2.0;
  return reason_ > 0.0;
}

bool Run::should_stop(double reserve) {
  has_reason_to_stop(reserve);
  // One small reduction: the reason of any rank counts for all.
  double const worst = world_->max(reason_);
  if (worst >= 2.0) stop_reason_ = stop_signal().empty() ? "a signal to another rank" : stop_signal();
  if (worst == 1.0) stop_reason_ = "run.time_limit " + deck_.run.time_limit;
  return worst > 0.0;
}

ModelFileInfo Run::file_info(std::string kind, ModelConfig const& model, ExpertConfig const& expert,
                             std::string base_hash, Index step) const {
  ModelFileInfo info;
  info.kind = std::move(kind);
  info.model = model;
  info.expert = expert;
  info.base_hash = std::move(base_hash);
  info.tokenizer = deck_.data.tokenizer;
  info.tokenizer_hash = tokenizer_hash_;
  info.prompt = deck_.data.format;
  info.deck = print_deck(deck_, false);
  info.step = step;
  return info;
}

Index Run::steps(Index planned) const {
  return options_.rehearse > 0 ? std::min(planned, options_.rehearse) : planned;
}

bool has_ffn_experts(Deck const& deck) { return deck.expert.kind == "ffn"; }

Trained dense_trained(Deck const& deck) { return {has_ffn_experts(deck), true, false}; }

Groups expert_groups(Deck const& deck) { return {has_ffn_experts(deck), true, false}; }

Trained moe_trained(Deck const& deck) { return {has_ffn_experts(deck), true, true}; }

ExpertConfig single_expert(Deck const& deck, RouterUse router) {
  ExpertConfig e;
  e.count = 1;
  e.router = router;
  if (has_ffn_experts(deck)) {
    e.kind = ExpertKind::ffn;
    return e;
  }
  e.rank = deck.lora.rank;
  e.alpha = deck.lora.alpha;
  e.dropout = deck.lora.dropout;
  return e;
}

ExpertConfig moe_experts(Deck const& deck, Index count) {
  ExpertConfig e = single_expert(deck, RouterUse::gate);
  e.count = count;
  e.active = deck.post_train.top_k;
  if (!has_ffn_experts(deck)) e.mix = deck.lora.mix == "ffn" ? LoraMix::ffn : LoraMix::branch;
  e.order =
      deck.upcycle.router_order == "softmax_topk" ? RouterOrder::softmax_topk : RouterOrder::topk_softmax;
  return e;
}

}  // namespace upit::upcycle
