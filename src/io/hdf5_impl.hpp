// SPDX-License-Identifier: Apache-2.0
// Owns what the parts of H5File share: identifiers that close themselves, error texts, types, agreement.
#pragma once

#include <hdf5.h>

#include <exception>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "upit/io/hdf5.hpp"

namespace upit {

/// An HDF5 identifier and the function that closes it.
class H5Handle {
 public:
  using Close = herr_t (*)(hid_t);
  H5Handle() = default;
  H5Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~H5Handle() { close(); }
  H5Handle(H5Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  H5Handle& operator=(H5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  bool close() { return id_ < 0 || close_(std::exchange(id_, -1)) >= 0; }
  void leak() { id_ = -1; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

/// The most specific line of HDF5's error stack, in parentheses with a space in front; empty if there is
/// none.
std::string hdf5_reason();

/// "float32", ...; a description for types that H5File does not write.
std::string hdf5_type_text(hid_t type);

/// Type in the file and in memory of a T. Files are little-endian everywhere.
template <class T>
struct H5Type;
template <>
struct H5Type<float> {
  static hid_t file() { return H5T_IEEE_F32LE; }
  static hid_t memory() { return H5T_NATIVE_FLOAT; }
};
template <>
struct H5Type<double> {
  static hid_t file() { return H5T_IEEE_F64LE; }
  static hid_t memory() { return H5T_NATIVE_DOUBLE; }
};
template <>
struct H5Type<int> {
  static hid_t file() { return H5T_STD_I32LE; }
  static hid_t memory() { return H5T_NATIVE_INT32; }
};
template <>
struct H5Type<Index> {
  static hid_t file() { return H5T_STD_I64LE; }
  static hid_t memory() { return H5T_NATIVE_INT64; }
};
template <>
struct H5Type<std::uint64_t> {
  static hid_t file() { return H5T_STD_U64LE; }
  static hid_t memory() { return H5T_NATIVE_UINT64; }
};

struct H5File::Impl {
  std::string path;    // final name
  std::string opened;  // the name on disk while open
  Communicator const* comm = nullptr;
  Transfer transfer = Transfer::shared;
  bool writing = false;
  Index request_limit = Index{1} << 30;
  mutable bool last_collective = false;
  H5Handle file;
  int exceptions = std::uncaught_exceptions();

  struct Progress {
    Index elements = 0;
    Index written = 0;
  };
  std::map<std::string, Progress> progress;  // datasets of a file being written

  ~Impl();

  int ranks() const { return comm == nullptr ? 1 : comm->size(); }
  bool root() const { return comm == nullptr || comm->root(); }
  std::string who(std::string const& object) const { return path + ": " + object; }

  /// Runs `work` here and lets all ranks agree on its error. `work` may be a collective HDF5 call that ends
  /// on every rank.
  void together(std::function<void()> const& work) const;
  /// The same for what a file with independent transfer does on one rank.
  void query(std::function<void()> const& work) const;
  /// The same for what changes the file: an error leaves it closed and its temporary removed.
  void change(std::function<void()> const& work);
  /// Gives the file up: its temporary goes, HDF5 closes it when MPI ends. To close it here would flush to a
  /// disk that may be full, and after a close that failed HDF5 1.10 reads freed memory at its end.
  void abandon();
  /// Runs `work`; an `Error` out of it abandons the file and says that the job cannot end in order: HDF5
  /// would write to this file again when MPI ends, and crashes (1.10) where that fails too.
  void or_abandon(std::function<void()> const& work);
  /// The same for a part of a dataset. One rank alone cannot close the file of all: its error ends the job.
  void write_part(std::function<void()> const& work) {
    comm == nullptr || transfer != Transfer::independent ? or_abandon(work) : work();
  }

  H5Handle object(std::string const& name) const;
  H5Handle dataset(std::string const& name, hid_t wanted_type) const;
  bool exists(std::string const& name) const;

  /// One part of a dataset between memory and file. `none`: this rank has nothing.
  void move(bool write, std::string const& name, hid_t file_type, hid_t memory_type, Index bytes, void* data,
            Index elements, Slab const& slab, bool none) const;
};

/// Extents of a dataset.
std::vector<Index> hdf5_extents(hid_t dataset);

}  // namespace upit
