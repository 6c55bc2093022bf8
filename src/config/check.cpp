// SPDX-License-Identifier: Apache-2.0
// Owns the checks that look at more than one key of a deck, and the warnings.
#include "upit/config/check.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "upit/config/describe.hpp"
#include "upit/core/signals.hpp"

namespace upit {
namespace {

class Faults {
 public:
  void add(bool fits, std::vector<std::string> keys, std::string text) {
    if (!fits) list_.push_back({std::move(keys), std::move(text)});
  }
  std::vector<DeckFault> take() { return std::move(list_); }

 private:
  std::vector<DeckFault> list_;
};

void check_model(ModelDeck const& m, std::string const& kind, LoraDeck const& lora, Faults& faults) {
  faults.add(m.width % m.heads == 0, {"model.width", "model.heads"},
             fmt::format("found {}, allowed: a multiple of model.heads = {}", m.width, m.heads));
  faults.add(m.heads % m.kv_heads == 0, {"model.heads", "model.kv_heads"},
             fmt::format("found {}, allowed: a multiple of model.kv_heads = {}", m.heads, m.kv_heads));
  faults.add(
      m.width % m.heads != 0 || m.width / m.heads % 2 == 0, {"model.width", "model.heads"},
      fmt::format("found {}, which makes heads of width {}; allowed: an even head width, for the rotary "
                  "embedding",
                  m.width, m.width / m.heads));
  faults.add(kind != "lora" || lora.rank <= std::min(m.width, m.ffn),
             {"lora.rank", "model.width", "model.ffn"},
             fmt::format("found {}, allowed: at most the smaller of model.width and model.ffn = {}",
                         lora.rank, std::min(m.width, m.ffn)));
}

void check_experts(Deck const& deck, Faults& faults) {
  Index const m = deck.prepare.checkpoints;
  Index const n = deck.expert.count;
  bool const base = deck.prepare.include_base;
  faults.add(deck.post_train.top_k <= n, {"post_train.top_k", "expert.count"},
             fmt::format("found {}, allowed: at most expert.count = {}", deck.post_train.top_k, n));
  faults.add(n >= m, {"expert.count", "prepare.checkpoints"},
             fmt::format("found {}, allowed: at least prepare.checkpoints = {}", n, m));
  bool const none = deck.expand.strategy == "none";
  faults.add(
      !none || n <= m, {"expert.count", "prepare.checkpoints", "expand.strategy"},
      fmt::format("found {}, allowed: prepare.checkpoints = {}, since expand.strategy is \"none\"", n, m));
  if (none || n <= m) return;
  faults.add(
      m >= 2, {"prepare.checkpoints", "expert.count"},
      fmt::format("found m = {}, which is m < 2; allowed: at least 2, since making {} experts takes a pair "
                  "of parents",
                  m, n));
  faults.add(
      m < 2 || !base || m >= 3, {"prepare.checkpoints", "prepare.include_base", "expert.count"},
      fmt::format("found m = {}, which leaves one parent (m < 2) beside the base of prepare.include_base; "
                  "allowed: at least 3",
                  m));
}

}  // namespace

std::vector<DeckFault> find_faults(Deck const& deck) {
  Faults faults;
  faults.add(!deck.run.directory.empty(), {"run.directory"}, "found \"\", allowed: the name of a folder");
  faults.add(
      deck.run.time_limit.empty() || parse_time_limit(deck.run.time_limit).has_value(), {"run.time_limit"},
      fmt::format("found \"{}\", allowed: \"HH:MM:SS\" or seconds above 0, in quotes, or \"\" for none",
                  deck.run.time_limit));
  if (deck.model.base.empty()) check_model(deck.model, deck.expert.kind, deck.lora, faults);
  faults.add(!deck.data.tokenizer.empty(), {"data.tokenizer"}, "found \"\", allowed: \"bytes\" or a path");
  double const held_out = static_cast<double>(deck.data.samples) * deck.data.held_out;
  faults.add(
      held_out >= 1.0 && static_cast<double>(deck.data.samples) - held_out >= 1.0,
      {"data.held_out", "data.samples"},
      fmt::format("found {}, allowed: a share that leaves at least one of data.samples = {} for evaluation "
                  "and one for training",
                  deck.data.held_out, deck.data.samples));
  check_experts(deck, faults);
  faults.add(deck.parallel.expert == 1 || deck.expert.kind == "ffn", {"parallel.expert", "expert.kind"},
             fmt::format("found {}, allowed: 1, since LoRA experts are small and stay whole on every rank",
                         deck.parallel.expert));
  return faults.take();
}

std::vector<std::string> deck_warnings(Deck const& deck) {
  std::vector<std::string> out;
  if (deck.expert.kind == "ffn" && deck.lora != LoraDeck{})
    out.push_back("[lora] has no meaning with expert.kind = \"ffn\": its keys change nothing");
  if (deck.expert.kind != "ffn" && deck.parallel != ParallelDeck{})
    out.push_back("[parallel] has no meaning with expert.kind = \"lora\": its keys change nothing");
  if (deck.post_train.top_k == 1 && deck.upcycle.router_order == "topk_softmax")
    out.push_back(
        "post_train.top_k = 1 with upcycle.router_order = \"topk_softmax\": the one gate is always 1, so the "
        "language-model loss gives the router no gradient; softmax_topk does.");
  if (!deck.model.base.empty()) {
    Deck copy = deck;
    Deck defaults;
    auto const tables = describe(copy);
    auto const default_tables = describe(defaults);
    std::string unused;
    for (std::size_t t = 0; t < tables.size(); ++t) {
      if (tables[t].name != "model" && tables[t].name != "pretrain") continue;
      for (std::size_t k = 0; k < tables[t].keys.size(); ++k) {
        auto const& key = tables[t].keys[k];
        if (key.name == "base" || value_text(key.value) == value_text(default_tables[t].keys[k].value))
          continue;
        unused += fmt::format("{}{}.{}", unused.empty() ? "" : ", ", tables[t].name, key.name);
      }
    }
    if (!unused.empty())
      out.push_back(fmt::format("not used, because model.base names a model: {}.", unused));
  }
  return out;
}

}  // namespace upit
