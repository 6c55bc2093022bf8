// SPDX-License-Identifier: Apache-2.0
#include "upit/model/batch.hpp"

#include <algorithm>

#include "upit/core/error.hpp"

namespace upit {
namespace {

/// Elements of 8 bytes that hold n sample ids and four arrays of n int.
Index packed_size(Index n) { return n + 2 * n; }

}  // namespace

Index HostBatch::targets() const {
  return std::count_if(target.begin(), target.end(), [](int t) { return t >= 0; });
}

void HostBatch::clear() {
  token.clear();
  position.clear();
  target.clear();
  sample.clear();
  start.clear();
}

void HostBatch::append(std::vector<int> const& tokens, std::vector<int> const& targets,
                       std::uint64_t sample_id) {
  expect(tokens.size() == targets.size(), "a segment needs one target per token");
  if (tokens.empty()) return;
  if (start.empty()) start.push_back(0);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    token.push_back(tokens[i]);
    target.push_back(targets[i]);
    position.push_back(static_cast<int>(i));
    sample.push_back(sample_id);
  }
  start.push_back(static_cast<Index>(token.size()));
}

Batch::Batch(Index max_tokens)
    : max_tokens_(max_tokens),
      buffer_("upit::batch.buffer", packed_size(max_tokens)),
      staging_("upit::batch.staging", packed_size(max_tokens)) {}

void Batch::assign(HostBatch const& host) {
  Index const n = host.tokens();
  expect(n <= max_tokens_, "a batch holds more tokens than its buffers");
  tokens_ = n;
  start_ = host.start;
  if (start_.empty()) start_.push_back(0);
  // No copy of an earlier batch still reads these bytes: its pass waited for the device when it read its losses
  // (head.cpp), behind that copy in the same queue.
  std::ranges::copy(host.sample, staging_.data());
  int* const integers = reinterpret_cast<int*>(staging_.data() + n);
  std::ranges::copy(host.token, integers);
  std::ranges::copy(host.position, integers + n);
  targets_ = 0;
  for (Index i = 0; i < n; ++i) {
    int const target = host.target[at(i)];
    if (target < 0) continue;
    integers[2 * n + targets_] = static_cast<int>(i);
    integers[3 * n + targets_] = target;
    ++targets_;
  }
  Index const size = packed_size(n);
  Kokkos::deep_copy(Exec(), View1<std::uint64_t>(buffer_.data(), size),
                    PinnedView1<std::uint64_t>(staging_.data(), size));
}

}  // namespace upit
