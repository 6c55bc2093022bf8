// SPDX-License-Identifier: Apache-2.0
// Owns the pool of FFN experts: each pass over their files writes a child and compares it on the way.
#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "upit/core/error.hpp"
#include "upit/core/random.hpp"
#include "upit/io/hdf5.hpp"
#include "upit/kernels/dare.hpp"
#include "upit/kernels/task_products.hpp"
#include "upit/upcycle/expand_blocks.hpp"
#include "upit/upcycle/expand_pool.hpp"

namespace upit::upcycle {
namespace {

constexpr Index kBufferElements = Index{1} << 26;  // of all slots of a rank: 256 MiB

std::string dataset_of(Tensor const& t) {
  return (t.group == Group::expert ? "expert/" : "backbone/") + t.name;
}

class FfnPool final : public ExpertPool {
 public:
  FfnPool(Communicator const& comm, ModelFileInfo const& info, ExpandOptions const& options,
          std::string start)
      : comm_(&comm),
        info_(info),
        options_(options),
        start_(std::move(start)),
        table_(info.model, info.expert),
        experts_(table_, Group::expert),
        backbone_(table_, Group::backbone),
        at_once_(std::clamp<Index>(options.piece_elements, 1, kBufferElements / (options.count + 1))) {
    Index longest = 0, most_rows = 0;
    for (auto const* blocks : {&experts_, &backbone_}) {
      for (auto const& piece : blocks->pieces(0, blocks->count(), at_once_)) {
        longest = std::max(longest, piece.size());
        if (blocks == &experts_) most_rows = std::max(most_rows, piece.rows);
      }
    }
    auto const uninitialised = [](char const* label) {
      return Kokkos::view_alloc(std::string(label), Kokkos::WithoutInitializing);
    };
    // Two slots at least: backbones need them. The start lies behind the experts.
    stride_ = longest;
    slots_ = View1<float>(uninitialised("upit::ffn_pool"), std::max<Index>(2, options.count + 1) * stride_);
    slots_host_ = Kokkos::create_mirror_view(slots_);
    rows_ = View1<double>(uninitialised("upit::ffn_pool_rows"), most_rows * options.count);
    rows_host_ = Kokkos::create_mirror_view(rows_);
  }

  void add_checkpoints(std::vector<std::string> const& paths) override {
    paths_ = paths;
    H5File start = open(start_);
    comm_->agree([&] { check(start); });
    start.close();
    gram_.append(pass(0, nullptr, nullptr));
    comm_->agree([&] { require_finite(gram_, paths_, 0); });
  }

  ChildCosines add_child(Child const& child, std::string const& path, std::string const& ancestry,
                         bool there) override {
    expect(child.number == gram_.size() && child.number < options_.count, "FfnPool: the next child");
    paths_.push_back(path);
    std::optional<H5File> out;
    if (!there) out.emplace(create(path, ancestry));
    gram_.append(pass(child.number, &child, out ? &*out : nullptr));
    if (out) out->close();
    comm_->agree([&] { require_finite(gram_, paths_, child.number); });
    return gram_.blend(child.first, child.second, child.weight);
  }

  double cosine(Index i, Index j) const override { return gram_.cosine(i, j); }

 private:
  H5File open(std::string const& path) const { return H5File::open(path, comm_, Transfer::independent); }

  void check(H5File const& file) const {
    for (auto const& t : table_.tensors()) file.require_dataset<float>(dataset_of(t), t.shape);
  }

  H5File create(std::string const& path, std::string const& ancestry) const {
    H5File out = H5File::create(path, comm_, Transfer::independent);
    write_info(out, info_);
    write_ancestry(out, ancestry);
    for (auto const& t : table_.tensors()) out.create_dataset<float>(dataset_of(t), t.shape);
    return out;
  }

  Slab share_of(RowBlocks const& blocks) const {
    return row_share(std::array{blocks.count()}, comm_->rank(), comm_->size());
  }
  std::vector<Piece> pieces_of(RowBlocks const& blocks) const {
    Slab const mine = share_of(blocks);
    return blocks.pieces(mine.offset[0], mine.count[0], at_once_);
  }

  Index start_slot() const { return options_.count; }
  View1<float> slot(Index i, Index size) const { return View1<float>(slots_.data() + i * stride_, size); }
  HostView1<float> host_slot(Index i, Index size) const {
    return HostView1<float>(slots_host_.data() + i * stride_, size);
  }
  void read(H5File const& file, Piece const& piece, Index to) const {
    HostView1<float> const host = host_slot(to, piece.size());
    file.read<float>(dataset_of(*piece.tensor),
                     std::span<float>(host.data(), static_cast<std::size_t>(piece.size())), piece.slab());
    Kokkos::deep_copy(slot(to, piece.size()), host);
  }
  void write(H5File& file, Piece const& piece, Index from) const {
    HostView1<float> const host = host_slot(from, piece.size());
    Kokkos::deep_copy(host, slot(from, piece.size()));
    file.write<float>(dataset_of(*piece.tensor),
                      std::span<float const>(host.data(), static_cast<std::size_t>(piece.size())),
                      piece.slab());
  }

  /// One pass over the files of all experts: the products of experts [from, size) with those up to them. With
  /// `out` the last expert is the child, written on the way.
  std::vector<double> pass(Index from, Child const* child, H5File* out) {
    Kokkos::Profiling::pushRegion("upit::ffn_pool");
    std::vector<H5File> files;
    for (auto const& path : paths_) {
      if (out == nullptr || &path != &paths_.back()) files.push_back(open(path));
    }
    H5File start = open(start_);
    std::vector<double> parts;
    std::string error;
    try {
      for (auto i = static_cast<std::size_t>(from); i < files.size(); ++i) check(files[i]);
      if (out != nullptr) merge_backbones(files, *child, *out);
      parts = stream(files, start, from, child, out);
    } catch (Error const& e) {
      error = e.what();
    }
    // A file that is being written cannot be given up in order: see H5File.
    comm_->agree(error, out != nullptr ? Ending::abort : Ending::orderly);
    for (auto& file : files) file.close();
    start.close();
    Kokkos::Profiling::popRegion();
    return add_up(parts, width(from));
  }

  Index size() const { return static_cast<Index>(paths_.size()); }
  Index width(Index from) const { return (size() * (size() + 1) - from * (from + 1)) / 2; }

  void merge_backbones(std::vector<H5File> const& files, Child const& child, H5File& out) const {
    double const weight = options_.backbone == Backbone::mean ? 0.5 : child.weight;
    for (auto const& piece : pieces_of(backbone_)) {
      read(files[static_cast<std::size_t>(child.first)], piece, 0);
      read(files[static_cast<std::size_t>(child.second)], piece, 1);
      View1<float> const first = slot(0, piece.size());
      // Nothing is dropped: the masks' streams are not looked at.
      kernels::dare_merge<float>(exec_, View1<float const>(), first, slot(1, piece.size()), weight, 0.0,
                                 RandomKey{}, RandomKey{}, 0, first);
      exec_.fence();
      write(out, piece, 0);
    }
  }

  void merge(Piece const& piece, Child const& child) const {
    auto const mask = [&](Index parent) {
      return random_key(options_.seed, "dare", child.number, parent, piece.number);
    };
    Index const n = piece.size();
    kernels::dare_merge<float>(exec_, slot(start_slot(), n), slot(child.first, n), slot(child.second, n),
                               child.weight, options_.drop, mask(child.first), mask(child.second),
                               piece.first_element(), slot(child.number, n));
    exec_.fence();
  }

  /// This rank's blocks, each `width(from)` products.
  std::vector<double> stream(std::vector<H5File> const& files, H5File const& start, Index from,
                             Child const* child, H5File* out) const {
    Slab const mine = share_of(experts_);
    Index const wide = width(from);
    bool const based = options_.similarity == Similarity::task_vector;
    std::vector<double> parts(static_cast<std::size_t>(mine.count[0] * wide), 0.0);
    View2<float const> const pool(slots_.data(), options_.count, stride_);
    for (auto const& piece : pieces_of(experts_)) {
      if (based || out != nullptr) read(start, piece, start_slot());
      for (std::size_t i = 0; i < files.size(); ++i) read(files[i], piece, static_cast<Index>(i));
      if (out != nullptr) {
        merge(piece, *child);
        write(*out, piece, child->number);
      }
      View1<float const> const origin =
          based ? View1<float const>(slot(start_slot(), piece.size())) : View1<float const>();
      double* column = parts.data();
      for (Index j = from; j < size(); ++j) {
        View2<double> const products(rows_.data(), piece.rows, j + 1);
        kernels::task_products(exec_, origin, pool, j, piece.columns, products);
        Index const n = piece.rows * (j + 1);
        auto const host = Kokkos::subview(rows_host_, std::pair<Index, Index>(0, n));
        exec_.fence();
        Kokkos::deep_copy(host, Kokkos::subview(rows_, std::pair<Index, Index>(0, n)));
        for (Index r = 0; r < piece.rows; ++r) {
          double* const to = column + (piece.block(r) - mine.offset[0]) * wide;
          for (Index i = 0; i <= j; ++i) to[i] += host(r * (j + 1) + i);
        }
        column += j + 1;
      }
    }
    return parts;
  }

  /// Sums over all blocks in their order. Ranks own consecutive blocks, so what is gathered lies in it.
  std::vector<double> add_up(std::vector<double> const& parts, Index wide) const {
    std::vector<double> const all = comm_->gather_all(std::span<double const>(parts));
    std::vector<double> sums(static_cast<std::size_t>(wide), 0.0);
    for (std::size_t i = 0; i < all.size(); ++i) sums[i % sums.size()] += all[i];
    return sums;
  }

  Communicator const* comm_;
  ModelFileInfo info_;
  ExpandOptions options_;
  std::string start_;
  ParameterTable table_;
  RowBlocks experts_, backbone_;
  Index at_once_;  // elements of a piece
  std::vector<std::string> paths_;
  GramMatrix gram_;
  Exec exec_;
  Index stride_ = 0;    // of a slot: the longest piece
  View1<float> slots_;  // (n + 1, stride)
  HostView1<float> slots_host_;
  View1<double> rows_;  // (rows of a piece, experts)
  HostView1<double> rows_host_;
};

}  // namespace

std::unique_ptr<ExpertPool> make_ffn_pool(Communicator const& comm, ModelFileInfo const& info,
                                          ExpandOptions const& options, std::string const& start) {
  return std::make_unique<FfnPool>(comm, info, options, start);
}

}  // namespace upit::upcycle
