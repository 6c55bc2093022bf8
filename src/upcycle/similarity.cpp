// SPDX-License-Identifier: Apache-2.0
// Owns the inner products of LoRA experts: which piece a rank reads, and the order of the sums.
#include "upit/upcycle/similarity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "upit/core/error.hpp"
#include "upit/core/profiling.hpp"
#include "upit/io/hdf5.hpp"
#include "upit/kernels/dare.hpp"
#include "upit/kernels/row_products.hpp"
#include "upit/kernels/shape.hpp"

namespace upit::upcycle {
namespace {

constexpr Index kMatrices = 3;  // gate, up, down

/// One factor of a piece: R rows of a tensor (1, rows, K).
struct Factor {
  Tensor const* tensor;
  Index first_row, rows, columns;
};

/// Factors A and B (transposed, as stored) of a piece.
std::array<Factor, 2> factors(ParameterTable const& table, Index piece) {
  int const layer = static_cast<int>(piece / kMatrices);
  Index const matrix = piece % kMatrices;
  Tensor const& a = table.find(layer, matrix == 2 ? "lora.down_a" : "lora.gate_up_a");
  Tensor const& b = table.find(layer, matrix == 0   ? "lora.gate_b"
                                      : matrix == 1 ? "lora.up_b"
                                                    : "lora.down_b");
  Index const rank = b.shape[1];
  return {Factor{&a, matrix == 1 ? rank : 0, rank, a.shape[2]}, Factor{&b, 0, rank, b.shape[2]}};
}

Index layer_count(ParameterTable const& table) {
  int last = -1;
  for (auto const& t : table.tensors()) {
    if (t.group == Group::expert) last = std::max(last, t.layer);
  }
  return last + 1;
}

/// Reads a factor of every file to consecutive slots of `slots`, each (rows, columns), by way of `scratch`.
void read_factor(std::vector<H5File> const& files, Factor const& f, HostView1<float> const& scratch,
                 View1<float> const& slots) {
  Index const size = f.rows * f.columns;
  HostView1<float> const host(scratch.data(), size);
  for (std::size_t i = 0; i < files.size(); ++i) {
    std::string const name = "expert/" + f.tensor->name;
    files[i].require_dataset<float>(name, f.tensor->shape);
    files[i].read<float>(name, std::span<float>(host.data(), static_cast<std::size_t>(size)),
                         {{0, f.first_row}, {1, f.rows}});
    Kokkos::deep_copy(View1<float>(slots.data() + static_cast<Index>(i) * size, size), host);
  }
}

}  // namespace

SimilarityTable::SimilarityTable(Communicator const& comm, ParameterTable const& table, Similarity similarity)
    : comm_(&comm), table_(&table), similarity_(similarity) {}

void SimilarityTable::add(std::vector<std::string> const& paths) {
  Index const before = size();
  paths_.insert(paths_.end(), paths.begin(), paths.end());
  std::vector<Pair> pairs;
  for (Index j = before; j < size(); ++j) {
    for (Index i = 0; i <= j; ++i) pairs.push_back({i, j});
  }
  extend(before, products(pairs, nullptr));
}

ChildCosines SimilarityTable::add_child(std::string const& path, Index first, Index second, double weight) {
  Index const child = size();
  Index const blend = child + 1;  // the slot behind the files
  paths_.push_back(path);
  std::vector<Pair> pairs;
  for (Index i = 0; i <= child; ++i) pairs.push_back({i, child});
  for (Index const i : {first, second, blend}) pairs.push_back({i, blend});
  Blend const merged = {first, second, weight};
  std::vector<double> values = products(pairs, &merged);
  double const squared = values.back();
  double const with_second = values[values.size() - 2];
  double const with_first = values[values.size() - 3];
  values.resize(values.size() - 3);
  extend(child, values);
  return {with_first / std::sqrt(squared * product(first, first)),
          with_second / std::sqrt(squared * product(second, second))};
}

void SimilarityTable::extend(Index before, std::vector<double> const& values) {
  gram_.append(values);
  comm_->agree([&] { require_finite(gram_, paths_, before); });
}

std::vector<double> SimilarityTable::products(std::vector<Pair> const& pairs, Blend const* blend) const {
  ProfilingRegion const region("upit::similarity");
  std::size_t const count = pairs.size();
  Index const pieces = kMatrices * layer_count(*table_);
  Slab const mine = row_share(std::array{pieces}, comm_->rank(), comm_->size());
  std::vector<H5File> files;
  for (auto const& path : paths_) files.push_back(H5File::open(path, comm_, Transfer::independent));

  std::vector<double> parts;  // (my pieces, pairs)
  comm_->agree([&] {
    if (mine.count[0] == 0) return;
    Exec const exec;
    Index const slots = size() + (blend != nullptr ? 1 : 0);
    auto const gate = factors(*table_, 0);
    Index const rank = gate[0].rows;
    Index const widest = std::max(gate[0].columns, gate[1].columns);  // C and F; down has the same two
    View1<float> const buffer("upit::similarity", slots * rank * widest);
    HostView1<float> const scratch("upit::similarity_host", rank * widest);
    Index const across = similarity_ == Similarity::task_vector ? rank : 1;
    View2<Index> const chosen("upit::similarity_pairs", count, 2);
    auto const chosen_host = Kokkos::create_mirror_view(chosen);
    for (std::size_t q = 0; q < count; ++q) {
      chosen_host(q, 0) = pairs[q].i;
      chosen_host(q, 1) = pairs[q].j;
    }
    Kokkos::deep_copy(chosen, chosen_host);
    std::array<View3<double>, 2> out;
    for (auto& o : out) o = View3<double>("upit::similarity_rows", count, rank, across);
    std::array const out_host = {Kokkos::create_mirror_view(out[0]), Kokkos::create_mirror_view(out[1])};

    for (Index piece = mine.offset[0]; piece < mine.offset[0] + mine.count[0]; ++piece) {
      auto const both = factors(*table_, piece);
      for (std::size_t k = 0; k < 2; ++k) {
        Index const block = rank * both[k].columns;
        read_factor(files, both[k], scratch, buffer);
        auto const slot = [&](Index i) { return View1<float>(buffer.data() + i * block, block); };
        if (blend != nullptr) {
          // Nothing is dropped, so the origin cancels and the masks' streams are not looked at.
          kernels::dare_merge<float>(exec, View1<float const>(), slot(blend->first), slot(blend->second),
                                     blend->weight, 0.0, RandomKey{}, RandomKey{}, 0, slot(size()));
        }
        kernels::row_products(exec, View3<float const>(buffer.data(), slots, rank, both[k].columns), chosen,
                              out[k]);
      }
      exec.fence();
      for (std::size_t k = 0; k < 2; ++k) Kokkos::deep_copy(out_host[k], out[k]);
      auto const& a = out_host[0];
      auto const& b = out_host[1];
      for (std::size_t q = 0; q < count; ++q) {
        double sum = 0.0;
        for (Index r = 0; r < rank; ++r) {
          for (Index s = 0; s < across; ++s) {
            sum += similarity_ == Similarity::task_vector ? a(q, r, s) * b(q, r, s) : a(q, r, s) + b(q, r, s);
          }
        }
        parts.push_back(sum);
      }
    }
  });
  for (auto& file : files) file.close();

  // Ranks own consecutive pieces, so what is gathered lies in the order of the pieces.
  std::vector<double> const all = comm_->gather_all(std::span<double const>(parts));
  std::vector<double> sums(count, 0.0);
  for (std::size_t i = 0; i < all.size(); ++i) sums[i % count] += all[i];
  return sums;
}

}  // namespace upit::upcycle
