// SPDX-License-Identifier: Apache-2.0
// Owns datasets of H5File: creation and the transfer of hyperslabs.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "hdf5_impl.hpp"
#include "upit/core/error.hpp"
#include "upit/io/shape.hpp"

namespace upit {

namespace {

/// A slab over all axes, cut along one axis into requests of at most `limit` bytes. Row-major order makes
/// each request one stretch of memory.
class Requests {
 public:
  Requests(std::vector<hsize_t> start, std::vector<hsize_t> count, Index bytes, Index limit)
      : start_(std::move(start)), count_(std::move(count)), inner_(count_.size(), 1) {
    for (std::size_t k = count_.size(); k-- > 1;) inner_[k - 1] = inner_[k] * static_cast<Index>(count_[k]);
    while (axis_ + 1 < count_.size() && inner_[axis_] * bytes > limit) ++axis_;
    if (count_.empty()) return;
    rows_ = std::max<Index>(1, limit / std::max<Index>(1, inner_[axis_] * bytes));
    chunks_ = (static_cast<Index>(count_[axis_]) + rows_ - 1) / rows_;
    outer_ = 1;
    for (std::size_t k = 0; k < axis_; ++k) outer_ *= static_cast<Index>(count_[k]);
  }

  Index size() const { return outer_ * chunks_; }

  struct Request {
    std::vector<hsize_t> start, count;
    Index memory = 0;  // elements from the start of the data
    Index elements = 1;
  };

  Request operator[](Index i) const {
    Request r{start_, count_};
    if (count_.empty()) return r;
    Index const first = i % chunks_ * rows_;
    Index const rows = std::min(rows_, static_cast<Index>(count_[axis_]) - first);
    r.start[axis_] += static_cast<hsize_t>(first);
    r.count[axis_] = static_cast<hsize_t>(rows);
    r.elements = rows * inner_[axis_];
    Index line = i / chunks_;
    r.memory = (line * static_cast<Index>(count_[axis_]) + first) * inner_[axis_];
    for (std::size_t k = axis_; k-- > 0; line /= static_cast<Index>(count_[k])) {
      r.start[k] += static_cast<hsize_t>(line % static_cast<Index>(count_[k]));
      r.count[k] = 1;
    }
    return r;
  }

 private:
  std::vector<hsize_t> start_, count_;
  std::vector<Index> inner_;  // elements below one step of an axis
  std::size_t axis_ = 0;
  Index rows_ = 1, chunks_ = 1, outer_ = 1;
};

// Blocks of a dataset on disk, before data comes: Open MPI 4.1 does not report a collective write that a full
// disk cuts short. Where the file system cannot reserve, its free space must do.
void reserve(std::string const& opened, std::string const& path, haddr_t offset, Index bytes,
             std::string const& name) {
  if (bytes == 0) return;
  FileDescriptor const file(opened, O_WRONLY);
  int status = 0;
  do {
    status = ::fallocate(file.get(), 0, static_cast<off_t>(offset), bytes);
  } while (status != 0 && errno == EINTR);
  if (status == 0) return;
  if (errno == EOPNOTSUPP || errno == ENOSYS) return require_free_space(opened, bytes, "dataset " + name);
  fail(fmt::format("{}: dataset {}: no room for {} bytes: {}", path, name, bytes, std::strerror(errno)));
}

Index slab_elements(std::vector<Index> const& shape, Slab const& slab) {
  std::vector<Index> part = shape;
  std::copy(slab.count.begin(), slab.count.end(), part.begin());
  return element_count(part).value_or(-1);
}

bool fits(std::vector<Index> const& shape, Slab const& slab) {
  if (slab.offset.size() != slab.count.size() || slab.count.size() > shape.size()) return false;
  for (std::size_t k = 0; k < slab.count.size(); ++k) {
    if (slab.offset[k] < 0 || slab.count[k] < 0 || slab.offset[k] > shape[k] ||
        slab.count[k] > shape[k] - slab.offset[k]) {
      return false;
    }
  }
  return true;
}

// One request, or this rank's empty share of a collective one. Returns HDF5's reason for a failure.
std::optional<std::string> request(bool write, hid_t dataset, hid_t memory_type, hid_t list,
                                   Requests::Request const* r, Index bytes, void* data) {
  hsize_t const length = r == nullptr ? 1 : static_cast<hsize_t>(r->elements);
  H5Handle const memory(H5Screate_simple(1, &length, nullptr), H5Sclose);
  H5Handle const space(H5Dget_space(dataset), H5Sclose);
  char nothing[8] = {};
  void* at = nothing;
  bool ok = memory && space;
  if (r == nullptr) {
    ok = ok && H5Sselect_none(memory.get()) >= 0 && H5Sselect_none(space.get()) >= 0;
  } else {
    at = static_cast<char*>(data) + r->memory * bytes;
    ok = ok && (r->start.empty() || H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, r->start.data(), nullptr,
                                                        r->count.data(), nullptr) >= 0);
  }
  // Even after a failure above the call must be made: the other ranks of a collective transfer are in it.
  hid_t const file_space = ok ? space.get() : H5S_ALL;
  herr_t const status = write ? H5Dwrite(dataset, memory_type, memory.get(), file_space, list, at)
                              : H5Dread(dataset, memory_type, memory.get(), file_space, list, at);
  if (status < 0 || !ok) return hdf5_reason();
  return std::nullopt;
}

}  // namespace

std::vector<Index> hdf5_extents(hid_t dataset) {
  H5Handle const space(H5Dget_space(dataset), H5Sclose);
  int const rank = space ? H5Sget_simple_extent_ndims(space.get()) : -1;
  require(rank >= 0, "HDF5: a dataset without a shape" + hdf5_reason());
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  if (rank > 0) H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr);
  return {extents.begin(), extents.end()};
}

H5Handle H5File::Impl::dataset(std::string const& name, hid_t wanted_type) const {
  require(exists(name), who("no dataset " + name));
  H5Handle d(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT), H5Dclose);
  require(static_cast<bool>(d), who(name + " is not a dataset") + hdf5_reason());
  if (wanted_type < 0) return d;
  H5Handle const type(H5Dget_type(d.get()), H5Tclose);
  require(type && H5Tequal(type.get(), wanted_type) > 0,
          who(fmt::format("dataset {} has type {}, {} is wanted", name, hdf5_type_text(type.get()),
                          hdf5_type_text(wanted_type))));
  return d;
}

void H5File::Impl::move(bool write, std::string const& name, hid_t file_type, hid_t memory_type, Index bytes,
                        void* data, Index elements, Slab const& slab, bool none) const {
  H5Handle d;
  std::vector<Index> shape;
  query([&] {
    d = dataset(name, file_type);
    shape = hdf5_extents(d.get());
    require(none || fits(shape, slab),
            who(fmt::format("dataset {} has shape {}, the part at {} of {} is wanted", name,
                            shape_text(shape), shape_text(slab.offset), shape_text(slab.count))));
  });
  expect(none || slab_elements(shape, slab) == elements,
         "HDF5: the data does not fill its part of the dataset");
  Index const total = element_count(shape).value_or(0);
  last_collective = false;
  if (total == 0) return;

  std::vector<hsize_t> start(shape.size(), 0);
  std::vector<hsize_t> count(shape.begin(), shape.end());
  std::copy(slab.offset.begin(), slab.offset.end(), start.begin());
  std::copy(slab.count.begin(), slab.count.end(), count.begin());
  Requests const requests(std::move(start), std::move(count), bytes, request_limit);
  bool const collective = comm != nullptr && transfer == Transfer::collective;
  Index const mine = none || elements == 0 ? 0 : requests.size();
  Index const steps = collective ? comm->max(mine) : mine;

  std::string error;
  H5Handle const list(H5Pcreate(H5P_DATASET_XFER), H5Pclose);
  if (collective) H5Pset_dxpl_mpio(list.get(), H5FD_MPIO_COLLECTIVE);
  for (Index i = 0; i < steps; ++i) {
    Requests::Request r;
    if (i < mine) r = requests[i];
    auto const reason =
        request(write, d.get(), memory_type, list.get(), i < mine ? &r : nullptr, bytes, data);
    if (reason && error.empty()) {
      error = who(fmt::format("dataset {}: cannot {}", name, write ? "write" : "read")) + *reason;
      if (!collective) break;
    }
  }
  if (collective) {
    H5D_mpio_actual_io_mode_t mode = H5D_MPIO_NO_COLLECTIVE;
    H5Pget_mpio_actual_io_mode(list.get(), &mode);
    last_collective = mode != H5D_MPIO_NO_COLLECTIVE;
  }
  query([&] { require(error.empty(), error); });
}

template <class T>
void H5File::create_dataset(std::string const& name, std::span<Index const> shape) {
  Impl& f = *impl_;
  haddr_t offset = 0;
  Index bytes = 0;
  f.change([&] {
    auto const elements = element_count(shape);
    expect(elements.has_value(), "HDF5: a shape with 2^63 elements or a negative extent");
    require(!f.exists(name), f.who("dataset " + name + " is there already"));
    std::vector<hsize_t> const extents(shape.begin(), shape.end());
    H5Handle const space(extents.empty()
                             ? H5Screate(H5S_SCALAR)
                             : H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
                         H5Sclose);
    H5Handle const links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
    H5Handle const creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    // No times in the file: equal runs leave equal bytes.
    bool const ok = space && H5Pset_create_intermediate_group(links.get(), 1) >= 0 &&
                    H5Pset_obj_track_times(creation.get(), false) >= 0 &&
                    H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY) >= 0 &&
                    H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER) >= 0;
    H5Handle const d(ok ? H5Dcreate2(f.file.get(), name.c_str(), H5Type<T>::file(), space.get(), links.get(),
                                     creation.get(), H5P_DEFAULT)
                        : -1,
                     H5Dclose);
    require(static_cast<bool>(d), f.who("cannot create dataset " + name) + hdf5_reason());
    f.progress[name].elements = *elements;
    offset = H5Dget_offset(d.get());
    bytes = *elements * static_cast<Index>(sizeof(T));
  });
  f.change([&] {
    if (f.root()) reserve(f.opened, f.path, offset, bytes, name);
  });
}

template <class T>
void H5File::write(std::string const& name, std::span<T const> data, Slab const& slab) {
  Impl& f = *impl_;
  expect(f.writing, "HDF5: the file is open for reading");
  Index const elements = static_cast<Index>(data.size());
  f.write_part([&] {
    f.move(true, name, H5Type<T>::file(), H5Type<T>::memory(), sizeof(T), const_cast<T*>(data.data()),
           elements, slab, false);
  });
  f.progress[name].written += elements;
}

template <class T>
void H5File::read(std::string const& name, std::span<T> data, Slab const& slab) const {
  impl_->move(false, name, H5Type<T>::file(), H5Type<T>::memory(), sizeof(T), data.data(),
              static_cast<Index>(data.size()), slab, false);
}

template <class T>
void H5File::write_all(std::string const& name, std::span<T const> data, std::span<Index const> shape) {
  Impl& f = *impl_;
  expect(element_count(shape) == static_cast<Index>(data.size()), "HDF5: the data does not fill the shape");
  create_dataset<T>(name, shape);
  int const rank = f.comm == nullptr ? 0 : f.comm->rank();
  if (!shape.empty()) {
    Slab const slab = row_share(shape, rank, f.ranks());
    Index const row = shape[0] == 0 ? 0 : static_cast<Index>(data.size()) / shape[0];
    return write<T>(name,
                    data.subspan(static_cast<std::size_t>(slab.offset[0] * row),
                                 static_cast<std::size_t>(slab.count[0] * row)),
                    slab);
  }
  bool const none = rank != 0;
  f.write_part([&] {
    f.move(true, name, H5Type<T>::file(), H5Type<T>::memory(), sizeof(T), const_cast<T*>(data.data()), 1, {},
           none);
  });
  if (!none) f.progress[name].written += 1;
}

template <class T>
std::vector<T> H5File::read_all(std::string const& name) const {
  std::vector<T> data(static_cast<std::size_t>(element_count(shape(name)).value_or(0)));
  read<T>(name, data, {});
  return data;
}

template <class T>
void H5File::require_dataset(std::string const& name, std::span<Index const> shape) const {
  impl_->query([&] {
    auto const found = hdf5_extents(impl_->dataset(name, H5Type<T>::file()).get());
    require(std::equal(found.begin(), found.end(), shape.begin(), shape.end()),
            impl_->who(fmt::format("dataset {} has shape {}, {} is wanted", name, shape_text(found),
                                   shape_text(shape))));
  });
}

std::vector<Index> H5File::shape(std::string const& name) const {
  std::vector<Index> found;
  impl_->query([&] { found = hdf5_extents(impl_->dataset(name, -1).get()); });
  return found;
}

#define UPIT_H5_TYPE(T)                                                                               \
  template void H5File::create_dataset<T>(std::string const&, std::span<Index const>);                \
  template void H5File::write<T>(std::string const&, std::span<T const>, Slab const&);                \
  template void H5File::read<T>(std::string const&, std::span<T>, Slab const&) const;                 \
  template void H5File::write_all<T>(std::string const&, std::span<T const>, std::span<Index const>); \
  template std::vector<T> H5File::read_all<T>(std::string const&) const;                              \
  template void H5File::require_dataset<T>(std::string const&, std::span<Index const>) const;
UPIT_H5_TYPE(float)
UPIT_H5_TYPE(double)
UPIT_H5_TYPE(int)
UPIT_H5_TYPE(Index)
UPIT_H5_TYPE(std::uint64_t)
#undef UPIT_H5_TYPE

}  // namespace upit
