// SPDX-License-Identifier: Apache-2.0
// Owns the input of one forward pass: samples laid end to end, without padding.
#pragma once

#include <cstdint>
#include <vector>

#include "upit/core/types.hpp"

namespace upit {

/// What one rank computes in one micro-step, on the host. N tokens of M segments; a segment is one sample and
/// attends only to itself, positions restart in it. Padding does not exist.
struct HostBatch {
  std::vector<int> token;             // (N)
  std::vector<int> position;          // (N) from 0 in every segment
  std::vector<int> target;            // (N) the token to predict, -1 where there is no loss
  std::vector<std::uint64_t> sample;  // (N) id of the sample: keys dropout
  std::vector<Index> start;           // (M + 1) first token of each segment; start[M] = N

  Index tokens() const { return static_cast<Index>(token.size()); }
  Index segments() const { return start.empty() ? 0 : static_cast<Index>(start.size()) - 1; }
  Index targets() const;
  void clear();
  /// Appends a segment: `tokens` feeds positions 0.., `targets` has the same length.
  void append(std::vector<int> const& tokens, std::vector<int> const& targets, std::uint64_t sample_id);
};

/// The same on the device, in one buffer sized once for `max_tokens`.
class Batch {
 public:
  Batch() = default;
  explicit Batch(Index max_tokens);
  /// Copies, on the default instance of the execution space, without a wait: passes that read the batch are
  /// enqueued there too. Throws `std::logic_error` if `host` holds more than `max_tokens`.
  void assign(HostBatch const& host);

  Index tokens() const { return tokens_; }
  View1<int const> token() const { return integers(0, tokens_); }
  View1<int const> position() const { return integers(1, tokens_); }
  View1<std::uint64_t const> sample() const { return View1<std::uint64_t const>(buffer_.data(), tokens_); }
  std::vector<Index> const& start() const { return start_; }               // on the host
  View1<int const> target_rows() const { return integers(2, targets_); }   // rows with target >= 0, ascending
  View1<int const> dense_target() const { return integers(3, targets_); }  // the targets of those rows
  Index targets() const { return targets_; }

 private:
  /// Array number i behind the sample ids: each has room for all tokens.
  View1<int const> integers(Index i, Index n) const {
    return View1<int const>(reinterpret_cast<int const*>(buffer_.data() + tokens_) + i * tokens_, n);
  }

  Index tokens_ = 0, targets_ = 0, max_tokens_ = 0;
  View1<std::uint64_t> buffer_;         // sample ids, then four arrays of int
  PinnedView1<std::uint64_t> staging_;  // the same on the host
  std::vector<Index> start_;
};

}  // namespace upit
