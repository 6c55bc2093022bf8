// SPDX-License-Identifier: Apache-2.0
// Owns the table and the file that `upit bench` leaves.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "bench_profile.hpp"
#include "commands.hpp"
#include "upit/core/error.hpp"
#include "upit/io/files.hpp"
#include "upit/linalg/tf32.hpp"

namespace upit {
namespace {

using nlohmann::json;

std::string precision_words(BenchOptions const& o) {
  return std::string(name_of(o.precision)) + (o.tf32 ? " with products in TF32" : "");
}

json to_json(BenchOptions const& o, BenchReport const& report, std::string const& surroundings, int ranks) {
  ModelConfig const& m = o.model;
  json out;
  out["surroundings"] = surroundings;
  out["ranks"] = ranks;
  out["precision"] = name_of(o.precision);
  out["tf32"] = o.tf32;
  out["shapes"] = {{"width", m.width},      {"layers", m.layers},
                   {"heads", m.heads},      {"kv_heads", m.kv_heads},
                   {"ffn", m.ffn},          {"vocabulary", m.vocabulary},
                   {"sequence", m.context}, {"sequences", o.sequences},
                   {"experts", o.experts},  {"top_k", o.active},
                   {"rank", o.rank},        {"mix", o.mix == LoraMix::ffn ? "ffn" : "branch"},
                   {"group", o.group},      {"capacity", o.capacity},
                   {"chunks", o.chunks}};
  out["ceiling_gflops"] = {
      {"best", report.best_ceiling()}, {"median", report.median_ceiling()}, {"samples", report.ceiling}};
  out["peak_resident_bytes"] = report.resident;
  for (auto const& c : report.cases) {
    double const best = c.best_seconds(), median = c.median_seconds();
    auto const tokens = static_cast<double>(c.tokens);
    out["cases"].push_back({{"case", name_of(c.kind)},
                            {"flops_per_token", c.flops / tokens},
                            {"tokens", c.tokens},
                            {"seconds", c.seconds},
                            {"ceiling_gflops", c.ceiling},
                            {"seconds_best", best},
                            {"seconds_median", median},
                            {"tokens_per_second_best", tokens / best},
                            {"tokens_per_second_median", tokens / median},
                            {"gflops_best", c.gflops(best)},
                            {"gflops_median", c.gflops(median)},
                            {"share_best", report.best_share(c)},
                            {"share_median", c.median_share()},
                            {"bytes_per_rank", c.bytes},
                            {"exchange_seconds", c.exchange_seconds},
                            {"exchange_bytes", c.exchange_bytes},
                            {"loss", c.loss}});
    if (c.profile.steps > 0) out["cases"].back()["profile"] = profile_json(c, o);
  }
  return out;
}

}  // namespace

int bench(BenchCommand const& command, std::string const& surroundings, Communicator const& world,
          Console& console) {
  BenchOptions const& o = command.options;
  ModelConfig const& m = o.model;
  world.agree([&] {
    require(!o.tf32 || has_tf32(),
            "--tf32 needs a build for NVIDIA devices and one of compute capability 8.0 or more; without it "
            "products are those of fp32");
  });
  allow_tf32(o.tf32);
  console.say(surroundings);
  console.say(fmt::format(
      "d {}, L {}, H {}, G {}, f {}, V {}; {} x {} tokens a step over all ranks; r {}, E {}, K {}, {}; "
      "groups of {}; {}",
      m.width, m.layers, m.heads, m.kv_heads, m.ffn, m.vocabulary, o.sequences, m.context, o.rank, o.experts,
      o.active, o.mix == LoraMix::ffn ? "ffn" : "branch", o.group, precision_words(o)));
  BenchReport const report = run_bench(world, o, console);
  Table table({"case", "ms best", "median", "tokens/s best", "median", "GFLOP/s best", "median", "share best",
               "median", "peak bytes a rank"});
  for (auto const& c : report.cases) {
    double const best = c.best_seconds(), median = c.median_seconds();
    auto const tokens = static_cast<double>(c.tokens);
    table.row({std::string(name_of(c.kind)), fmt::format("{:.2f}", best * 1e3),
               fmt::format("{:.2f}", median * 1e3), fmt::format("{:.0f}", tokens / best),
               fmt::format("{:.0f}", tokens / median), fmt::format("{:.1f}", c.gflops(best)),
               fmt::format("{:.1f}", c.gflops(median)), fmt::format("{:.3f}", report.best_share(c)),
               fmt::format("{:.3f}", c.median_share()), format_bytes(c.bytes)});
  }
  console.say(table);
  for (auto const& c : report.cases) {
    if (c.exchange_bytes == 0.0) continue;
    console.say(fmt::format(
        "{}: {} a step from rank to rank; ranks wait for it {:.1f} % of the step (median)", name_of(c.kind),
        format_bytes(static_cast<Index>(c.exchange_bytes)), 100.0 * c.exchange_share()));
  }
  for (auto const& c : report.cases) {
    if (c.profile.steps > 0) say_profile(console, c, o, report.best_ceiling() / world.size());
  }
  console.say(fmt::format(
      "ceiling: best {:.1f}, median {:.1f} GFLOP/s of {} samples; largest resident memory of a rank, "
      "all cases together: {}",
      report.best_ceiling(), report.median_ceiling(), report.ceiling.size(), format_bytes(report.resident)));
  if (!command.json.empty()) {
    world.agree_on_root([&] {
      write_text_file(command.json, to_json(o, report, surroundings, world.size()).dump(2) + "\n");
    });
  }
  return 0;
}

}  // namespace upit
