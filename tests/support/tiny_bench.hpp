// SPDX-License-Identifier: Apache-2.0
// Owns the options of a bench that is over in milliseconds.
#pragma once

#include "upit/train/bench.hpp"

namespace upit::test {

inline BenchOptions tiny_bench() {
  BenchOptions o;
  o.model.layers = 2;
  o.model.width = 16;
  o.model.heads = 4;
  o.model.kv_heads = 2;
  o.model.head_width = 4;
  o.model.ffn = 24;
  o.model.vocabulary = 50;
  o.model.context = 12;
  o.sequences = 4;
  o.experts = 4;
  o.rank = 2;
  o.repeats = 3;
  static constexpr ProductShape kSmall[] = {{32, 16, 8}};
  o.shapes = kSmall;
  return o;
}

}  // namespace upit::test
