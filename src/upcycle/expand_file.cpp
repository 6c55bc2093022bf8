// SPDX-License-Identifier: Apache-2.0
// Owns the files of merged LoRA experts, streamed from two files to one with rows spread over ranks, and the
// ancestry in the files of all.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/io/hdf5.hpp"
#include "upit/kernels/dare.hpp"
#include "upit/upcycle/expand.hpp"

namespace upit::upcycle {
namespace {

constexpr char const* kAncestry = "ancestry";

/// Rows of a tensor (1, rows, columns) that one rank holds at a time. Every rank makes the same number of
/// steps, the last ones perhaps without rows: transfers may be collective.
struct RowSteps {
  Index begin, end, at_once, steps;

  RowSteps(Index rows, Index columns, Index piece_elements, int rank, int ranks) {
    Slab const mine = row_share(std::array{rows}, rank, ranks);
    begin = mine.offset[0];
    end = begin + mine.count[0];
    at_once = std::max<Index>(1, piece_elements / std::max<Index>(1, columns));
    Index const most = row_share(std::array{rows}, 0, ranks).count[0];
    steps = (most + at_once - 1) / at_once;
  }
  Slab operator[](Index step) const {
    Index const from = std::min(end, begin + step * at_once);
    return {{0, from}, {1, std::min(end, from + at_once) - from}};
  }
};

}  // namespace

void write_child(Communicator const& comm, std::string const& path, ModelFileInfo const& info,
                 ParameterTable const& table, View1<float> const& start, std::string const& first,
                 std::string const& second, Child const& child, ExpandOptions const& options,
                 std::string const& ancestry) {
  Kokkos::Profiling::pushRegion("upit::write_child");
  Exec const exec;
  std::array<H5File, 2> parents = {H5File::open(first, &comm), H5File::open(second, &comm)};
  std::array<Index, 2> const numbers = {child.first, child.second};
  H5File out = H5File::create(path, &comm);
  write_info(out, info);
  write_ancestry(out, ancestry);

  Index longest = options.piece_elements;  // a step holds at least one row
  for (auto const& t : table.tensors()) {
    if (t.group == Group::expert) longest = std::max(longest, t.shape[2]);
  }
  longest = std::min(longest, table.extent(Group::expert));
  auto const uninitialised = [](char const* label) {
    return Kokkos::view_alloc(std::string(label), Kokkos::WithoutInitializing);
  };
  HostView1<float> const host_buffer(uninitialised("upit::write_child_host"), longest);
  std::array<View1<float>, 2> buffers;
  for (auto& b : buffers) b = View1<float>(uninitialised("upit::write_child"), longest);

  Index number = 0;
  for (auto const& t : table.tensors()) {
    if (t.group != Group::expert) continue;
    std::string const name = "expert/" + t.name;
    out.create_dataset<float>(name, t.shape);
    std::array<RandomKey, 2> masks;
    for (std::size_t p = 0; p < 2; ++p) {
      parents[p].require_dataset<float>(name, t.shape);
      masks[p] = random_key(options.seed, "dare", child.number, numbers[p], number);
    }
    ++number;
    Index const columns = t.shape[2];
    RowSteps const rows(t.shape[1], columns, options.piece_elements, comm.rank(), comm.size());
    for (Index step = 0; step < rows.steps; ++step) {
      Slab const slab = rows[step];
      Index const offset = slab.offset[1] * columns;
      Index const size = slab.count[1] * columns;
      HostView1<float> const host(host_buffer.data(), size);
      std::span<float> const values(host.data(), static_cast<std::size_t>(size));
      std::array<View1<float>, 2> parts;
      for (std::size_t p = 0; p < 2; ++p) {
        parents[p].read<float>(name, values, slab);
        parts[p] = View1<float>(buffers[p].data(), size);
        Kokkos::deep_copy(parts[p], host);
      }
      View1<float const> const origin(start.data() + t.offset + offset, size);
      kernels::dare_merge<float>(exec, origin, parts[0], parts[1], child.weight, options.drop, masks[0],
                                 masks[1], offset, parts[0]);
      Kokkos::deep_copy(host, parts[0]);
      out.write<float>(name, values, slab);
    }
  }
  for (auto& parent : parents) parent.close();
  out.close();
  Kokkos::Profiling::popRegion();
}

void write_ancestry(H5File& file, std::string const& ancestry) {
  file.write_attribute<std::string>("/", kAncestry, ancestry);
}

std::optional<std::string> stored_ancestry(Communicator const& comm, std::string const& path) {
  Index there = 0;
  comm.agree_on_root([&] { there = std::filesystem::exists(path) ? 1 : 0; });
  comm.broadcast(std::span<Index>(&there, 1));
  if (there == 0) return std::nullopt;
  H5File file = H5File::open(path, &comm);
  std::optional<std::string> text;
  if (file.has_attribute("/", kAncestry)) text = file.read_attribute<std::string>("/", kAncestry);
  file.close();
  return text;
}

}  // namespace upit::upcycle
