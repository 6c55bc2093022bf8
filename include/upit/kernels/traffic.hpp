// SPDX-License-Identifier: Apache-2.0
// Owns what each kernel has to do, bytes, arithmetic and launches: the floors that its time is compared with.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "upit/core/types.hpp"

namespace upit::kernels {

/// Extents of a kernel's arguments, letters as in docs/notation.md; real, so that a mean over calls fits.
struct KernelShape {
  double tokens = 0.0;      // N, or the rows of a chunk of logits
  double sequence = 0.0;    // positions that occur
  double width = 0.0;       // C
  double ffn = 0.0;         // F
  double vocabulary = 0.0;  // V
  double heads = 0.0, kv_heads = 0.0, head_width = 0.0;
  double experts = 0.0, active = 0.0, rank = 0.0;
  double parts = 1.0;      // J, low-rank matrices side by side: gate and up 2, down 1
  double elements = 0.0;   // of kernels over flat buffers
  double value_bytes = 4;  // of a weight or activation; sums, norms, router and moments have 4
};

/// Bytes of one call. What is read and written in place counts in both, and once in `set`.
struct Traffic {
  double read = 0.0, written = 0.0;
  double set = 0.0;  // distinct bytes, the working set

  double moved() const { return read + written; }
};

/// Every input once, every output once, whatever the kernel does; only what is needed, so of the low-rank
/// activations of E experts those of the K chosen. `kernel` is the label without "upit::". Nothing for a
/// kernel that the table does not know.
std::optional<Traffic> kernel_traffic(std::string_view kernel, KernelShape const& shape);

/// What of one call's arithmetic has a floor of its own. Everything else that the kernels compute hides behind
/// their loads and stores.
struct Arithmetic {
  double exponentials = 0.0;  // fast_exp; a division, logarithm or logistic beside it is not counted
  double counters = 0.0;      // Philox counters, four words each
  double flops = 0.0;         // of products inside the kernel, 2 a multiply-add
};
/// None for a kernel that the table does not know.
Arithmetic kernel_arithmetic(std::string_view kernel, KernelShape const& shape);

/// Launches of one call that carry its label: rates of a profile, which hears launches, are per call.
Index kernel_launches(std::string_view kernel);

/// The kernels that the table knows.
std::vector<std::string_view> kernels_with_traffic();

}  // namespace upit::kernels
