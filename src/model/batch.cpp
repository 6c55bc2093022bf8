// SPDX-License-Identifier: Apache-2.0
#include "upit/model/batch.hpp"

#include <algorithm>

#include "upit/core/error.hpp"

namespace upit {
namespace {

template <class T>
void upload(std::vector<T> const& from, View1<T> const& to) {
  auto const n = static_cast<Index>(from.size());
  Kokkos::View<T const*, Kokkos::LayoutRight, Kokkos::HostSpace> const host(from.data(), n);
  Kokkos::deep_copy(View1<T>(to.data(), n), host);
}

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
    : token_("upit::batch.token", max_tokens),
      position_("upit::batch.position", max_tokens),
      target_("upit::batch.target", max_tokens),
      target_rows_("upit::batch.target_rows", max_tokens),
      dense_target_("upit::batch.dense_target", max_tokens),
      sample_("upit::batch.sample", max_tokens) {}

void Batch::assign(HostBatch const& host) {
  expect(host.tokens() <= token_.extent_int(0), "a batch holds more tokens than its buffers");
  tokens_ = host.tokens();
  start_ = host.start;
  if (start_.empty()) start_.push_back(0);
  std::vector<int> found, dense;
  for (std::size_t i = 0; i < host.target.size(); ++i) {
    if (host.target[i] < 0) continue;
    found.push_back(static_cast<int>(i));
    dense.push_back(host.target[i]);
  }
  targets_ = static_cast<Index>(found.size());
  upload(host.token, token_);
  upload(host.position, position_);
  upload(host.target, target_);
  upload(host.sample, sample_);
  upload(found, target_rows_);
  upload(dense, dense_target_);
}

}  // namespace upit
