// SPDX-License-Identifier: Apache-2.0
// Owns the tables and the JSON of a profiled step.
#include "bench_profile.hpp"

#include <fmt/format.h>

#include "upit/train/bench_work.hpp"

namespace upit {
namespace {

using nlohmann::json;

/// Tree order: a node, then what lies within it.
void walk(Profile const& profile, int node, std::vector<int>& out) {
  out.push_back(node);
  for (std::size_t i = 1; i < profile.nodes.size(); ++i) {
    if (profile.nodes[i].parent == node) walk(profile, static_cast<int>(i), out);
  }
}

std::vector<int> tree_order(Profile const& profile) {
  std::vector<int> out;
  walk(profile, 0, out);
  return out;
}

std::string or_dash(double value, char const* form) {
  return value > 0.0 ? fmt::format(fmt::runtime(form), value) : "-";
}

}  // namespace

json profile_json(BenchCase const& c, BenchOptions const& options) {
  Profile const& p = c.profile;
  auto const steps = static_cast<double>(p.steps);
  json out = {
      {"steps", p.steps}, {"seconds", p.seconds() / steps}, {"host_seconds", p.host_seconds() / steps}};
  for (auto const& r : p.rows()) {
    double const calls = static_cast<double>(r.calls) / steps;
    Work work = work_of(options, c, r.label, calls);
    if (r.kind == Profile::Kind::copy) work.bytes = r.bytes / steps;
    json row = {{"label", r.label},
                {"kind", name_of(r.kind)},
                {"calls", calls},
                {"seconds", r.seconds / steps},
                {"share", r.seconds / p.seconds()}};
    if (work.flops > 0.0) row["flops"] = work.flops;
    if (work.bytes > 0.0) row["bytes"] = work.bytes;
    if (work.set_bytes > 0.0) row["set_bytes"] = work.set_bytes;
    out["rows"].push_back(row);
  }
  for (int const i : tree_order(p)) {
    auto const& n = p.nodes[at(i)];
    out["tree"].push_back({{"label", i == 0 ? "step" : n.label},
                           {"kind", name_of(n.kind)},
                           {"depth", n.depth},
                           {"calls", i == 0 ? 1.0 : static_cast<double>(n.calls) / steps},
                           {"seconds", n.seconds / steps},
                           {"own_seconds", p.own_seconds(i) / steps}});
  }
  return out;
}

void say_profile(Console& console, BenchCase const& c, BenchOptions const& options, double ceiling) {
  constexpr int kDeepest = 4;
  Profile const& p = c.profile;
  auto const steps = static_cast<double>(p.steps);
  auto const ms = [&](double seconds) { return fmt::format("{:.3f}", seconds / steps * 1e3); };
  auto const percent = [&](double seconds) { return fmt::format("{:.2f}", 100.0 * seconds / p.seconds()); };
  auto const calls = [&](Index n) { return fmt::format("{:g}", static_cast<double>(n) / steps); };

  Table tree({"region", "calls", "ms a step", "% of step", "ms of its own"});
  for (int const i : tree_order(p)) {
    auto const& n = p.nodes[at(i)];
    if (n.kind != Profile::Kind::region || n.depth > kDeepest) continue;
    tree.row({std::string(2 * at(n.depth), ' ') + (i == 0 ? "step" : n.label), i == 0 ? "1" : calls(n.calls),
              ms(n.seconds), percent(n.seconds), ms(p.own_seconds(i))});
  }
  console.say(tree, fmt::format("{}: regions of a step on rank 0, mean of {}", name_of(c.kind), p.steps));

  Table flat({"kernel, copy or product m x n x k", "calls", "ms a step", "% of step", "GFLOP/s", "of ceiling",
              "GB/s"});
  for (auto const& r : p.rows()) {
    Work work = work_of(options, c, r.label, static_cast<double>(r.calls) / steps);
    if (r.kind == Profile::Kind::copy) work.bytes = r.bytes / steps;
    double const each = r.seconds / steps;
    double const gflops = each > 0.0 ? work.flops / each * 1e-9 : 0.0;
    double const gbytes = each > 0.0 ? work.bytes / each * 1e-9 : 0.0;
    flat.row({r.label, calls(r.calls), ms(r.seconds), percent(r.seconds), or_dash(gflops, "{:.1f}"),
              or_dash(gflops / ceiling, "{:.3f}"), or_dash(gbytes, "{:.1f}")});
  }
  flat.row(
      {"host work outside kernels", "-", ms(p.host_seconds()), percent(p.host_seconds()), "-", "-", "-"});
  console.say(flat, fmt::format("{}: by time of its own", name_of(c.kind)));
}

}  // namespace upit
