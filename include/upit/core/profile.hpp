// SPDX-License-Identifier: Apache-2.0
// Owns the time of a program's part by Kokkos region, kernel, copy and product of matrices.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "upit/core/types.hpp"

namespace upit {

/// What a `ProfileListener` heard: a tree whose leaves are kernels, copies and products, within regions.
struct Profile {
  enum class Kind { region, kernel, copy, product };

  struct Node {
    std::string label;
    Kind kind = Kind::region;
    int parent = -1;  // node 0, the root, is all that was listened to
    int depth = 0;
    Index calls = 0;
    double seconds = 0.0;  // what lies within included
    double flops = 0.0;    // of products, 2 m n k a call
    double bytes = 0.0;    // of copies, read and written
  };

  /// Everything under one label, wherever it was called from.
  struct Row {
    std::string label;
    Kind kind = Kind::region;
    Index calls = 0;
    double seconds = 0.0;  // without what lies within
    double flops = 0.0, bytes = 0.0;
  };

  std::vector<Node> nodes = {Node{}};  // parents before children
  Index steps = 0;                     // to be set by who listens

  double seconds() const { return nodes.front().seconds; }
  /// Seconds of a node without its children's.
  double own_seconds(int node) const;
  /// Kernels, copies, products, and regions in which there are none of these, by falling time.
  std::vector<Row> rows() const;
  /// Seconds outside all rows: host work in regions between their kernels.
  double host_seconds() const;
};

std::string_view name_of(Profile::Kind kind);

/// Adds to a profile what Kokkos reports while this object lives, from the thread that made it. One at a
/// time, else a `std::logic_error`. A tool loaded by KOKKOS_TOOLS_LIBS goes on hearing the same. On a device
/// each kernel is waited for, so that its time is its own; hosts wait anyway.
class ProfileListener {
 public:
  explicit ProfileListener(Profile& profile);
  ~ProfileListener();
  ProfileListener(ProfileListener const&) = delete;
  ProfileListener& operator=(ProfileListener const&) = delete;
};

}  // namespace upit
