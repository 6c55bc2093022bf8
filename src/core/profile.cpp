// SPDX-License-Identifier: Apache-2.0
#include "upit/core/profile.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <thread>

#include "upit/core/error.hpp"
#include "upit/core/product_region.hpp"
#include "upit/core/timer.hpp"

namespace upit {
namespace {

namespace tools = Kokkos::Tools::Experimental;

struct Frame {
  int node;
  double begin;
};

/// Kokkos calls plain functions, so what they write to can only be found here.
struct Hearing {
  Profile& profile;
  std::thread::id thread;
  tools::EventSet before;  // the callbacks of a tool, which go on hearing
  Stopwatch watch;
  std::vector<Frame> open;
  int absorbed = 0;  // frames within a leaf: a fill's kernel within its copy, a product within its group
};

std::optional<Hearing> hearing;

bool listens() { return hearing && hearing->thread == std::this_thread::get_id(); }

void wait_for_device() {
  if constexpr (!std::is_same_v<Exec, HostExec>) Exec().fence();
}

void enter(std::string_view label, Profile::Kind kind, double bytes = 0.0) {
  wait_for_device();
  auto& nodes = hearing->profile.nodes;
  int const parent = hearing->open.back().node;
  if (nodes[at(parent)].kind != Profile::Kind::region) {
    ++hearing->absorbed;
    return;
  }
  auto found = std::ranges::find_if(nodes, [&](Profile::Node const& n) {
    return n.parent == parent && (n.kind == kind || kind == Profile::Kind::region) && n.label == label;
  });
  if (found == nodes.end()) {
    Profile::Node one;
    one.label = label;
    one.kind = kind;
    one.parent = parent;
    one.depth = nodes[at(parent)].depth + 1;
    auto const product = read_product_label(label);
    if (kind == Profile::Kind::region && product) {
      one.kind = Profile::Kind::product;
      one.flops = product->flops();
    }
    nodes.push_back(one);
    found = nodes.end() - 1;
  }
  ++found->calls;
  found->bytes += bytes;
  hearing->open.push_back({static_cast<int>(found - nodes.begin()), hearing->watch.seconds()});
}

void leave() {
  wait_for_device();
  if (hearing->absorbed > 0) {
    --hearing->absorbed;
    return;
  }
  if (hearing->open.size() < 2) return;  // of a region that was open before anybody listened
  Frame const& f = hearing->open.back();
  hearing->profile.nodes[at(f.node)].seconds += hearing->watch.seconds() - f.begin;
  hearing->open.pop_back();
}

template <Kokkos_Profiling_beginFunction Kokkos_Profiling_EventSet::*member>
void begin_kernel(char const* label, std::uint32_t device, std::uint64_t* id) {
  if (!hearing) return;
  if (auto const tool = hearing->before.*member) tool(label, device, id);
  if (listens()) enter(label, Profile::Kind::kernel);
}

template <Kokkos_Profiling_endFunction Kokkos_Profiling_EventSet::*member>
void end_kernel(std::uint64_t id) {
  if (!hearing) return;
  if (listens()) leave();
  if (auto const tool = hearing->before.*member) tool(id);
}

void push_region(char const* label) {
  if (!hearing) return;
  if (auto const tool = hearing->before.push_region) tool(label);
  if (listens()) enter(label, Profile::Kind::region);
}

void pop_region() {
  if (!hearing) return;
  if (listens()) leave();
  if (auto const tool = hearing->before.pop_region) tool();
}

void begin_copy(Kokkos_Profiling_SpaceHandle to_space, char const* to, void const* to_data,
                Kokkos_Profiling_SpaceHandle from_space, char const* from, void const* from_data,
                std::uint64_t size) {
  if (!hearing) return;
  if (auto const tool = hearing->before.begin_deep_copy) {
    tool(to_space, to, to_data, from_space, from, from_data, size);
  }
  if (!listens()) return;
  // Kokkos' names for a value: one with, one without an execution space.
  bool const fill = std::string_view(from) == "(none)" || std::string_view(from) == "Scalar";
  enter(fill ? "Kokkos::deep_copy, fill" : "Kokkos::deep_copy", Profile::Kind::copy,
        static_cast<double>(size) * (fill ? 1.0 : 2.0));
}

void end_copy() {
  if (!hearing) return;
  if (listens()) leave();
  if (auto const tool = hearing->before.end_deep_copy) tool();
}

}  // namespace

double Profile::own_seconds(int node) const {
  double own = nodes[at(node)].seconds;
  for (auto const& n : nodes) {
    if (n.parent == node) own -= n.seconds;
  }
  return own;
}

std::vector<Profile::Row> Profile::rows() const {
  std::vector<bool> has_children(nodes.size(), false);
  for (auto const& n : nodes) {
    if (n.parent >= 0) has_children[at(n.parent)] = true;
  }
  std::vector<Row> out;
  for (std::size_t i = 1; i < nodes.size(); ++i) {
    if (has_children[i]) continue;
    Node const& n = nodes[i];
    auto row =
        std::ranges::find_if(out, [&](Row const& r) { return r.label == n.label && r.kind == n.kind; });
    if (row == out.end()) row = out.insert(out.end(), Row{n.label, n.kind});
    row->calls += n.calls;
    row->seconds += n.seconds;
    row->flops += n.flops * static_cast<double>(n.calls);
    row->bytes += n.bytes;
  }
  std::ranges::stable_sort(out, [](Row const& a, Row const& b) { return a.seconds > b.seconds; });
  return out;
}

double Profile::host_seconds() const {
  double host = seconds();
  for (auto const& r : rows()) host -= r.seconds;
  return host;
}

std::string_view name_of(Profile::Kind kind) {
  constexpr std::array<std::string_view, 4> kNames = {"region", "kernel", "copy", "product"};
  return kNames[static_cast<std::size_t>(kind)];
}

ProfileListener::ProfileListener(Profile& profile) {
  expect(!hearing, "two listeners to Kokkos at a time");
  tools::EventSet const before = tools::get_callbacks();
  tools::EventSet ours = before;
  ours.begin_parallel_for = begin_kernel<&tools::EventSet::begin_parallel_for>;
  ours.end_parallel_for = end_kernel<&tools::EventSet::end_parallel_for>;
  ours.begin_parallel_reduce = begin_kernel<&tools::EventSet::begin_parallel_reduce>;
  ours.end_parallel_reduce = end_kernel<&tools::EventSet::end_parallel_reduce>;
  ours.begin_parallel_scan = begin_kernel<&tools::EventSet::begin_parallel_scan>;
  ours.end_parallel_scan = end_kernel<&tools::EventSet::end_parallel_scan>;
  ours.push_region = push_region;
  ours.pop_region = pop_region;
  ours.begin_deep_copy = begin_copy;
  ours.end_deep_copy = end_copy;
  hearing.emplace(Hearing{profile, std::this_thread::get_id(), before, {}, {}});
  hearing->open.push_back({0, hearing->watch.seconds()});
  tools::set_callbacks(ours);
}

ProfileListener::~ProfileListener() {
  wait_for_device();
  hearing->profile.nodes.front().seconds += hearing->watch.seconds() - hearing->open.front().begin;
  tools::set_callbacks(hearing->before);
  hearing.reset();
}

}  // namespace upit
