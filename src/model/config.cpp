// SPDX-License-Identifier: Apache-2.0
#include "upit/model/config.hpp"

#include <fmt/format.h>

#include "upit/core/error.hpp"

namespace upit {

void check(ModelConfig const& m, ExpertConfig const& e) {
  auto const positive = [](Index value, char const* name) {
    require(value > 0, fmt::format("model {} is {}; it must be positive", name, value));
  };
  positive(m.layers, "layers");
  positive(m.width, "width");
  positive(m.heads, "heads");
  positive(m.kv_heads, "key-value heads");
  positive(m.head_width, "head width");
  positive(m.ffn, "FFN width");
  positive(m.vocabulary, "vocabulary");
  positive(m.context, "context");
  require(m.heads % m.kv_heads == 0,
          fmt::format("model has {} heads, which {} key-value heads do not divide", m.heads, m.kv_heads));
  require(m.head_width % 2 == 0,
          fmt::format("model head width is {}; rotary embedding needs an even one", m.head_width));
  if (e.count == 0) return;
  require(e.count > 0, fmt::format("expert count is {}; it must not be negative", e.count));
  if (e.kind == ExpertKind::lora) positive(e.rank, "LoRA rank");
  require(e.dropout >= 0.0 && e.dropout < 1.0,
          fmt::format("LoRA dropout is {}; it must lie in [0, 1)", e.dropout));
  if (e.router == RouterUse::gate) {
    require(e.active >= 1 && e.active <= e.count,
            fmt::format("top-k is {} with {} experts; it must lie in [1, {}]", e.active, e.count, e.count));
  } else {
    require(e.count == 1, fmt::format("{} experts without a gating router; only one is possible", e.count));
  }
}

}  // namespace upit
