// SPDX-License-Identifier: Apache-2.0
// Owns HDF5 files: whole-or-absent writing, groups, attributes, hyperslabs of datasets, by one rank or by
// all.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "upit/comm/communicator.hpp"
#include "upit/core/index.hpp"
#include "upit/io/files.hpp"

namespace upit {

/// How the ranks of a file move data.
///   shared       every rank makes every call and moves its own piece. The rule, by measurement: ranks own
///                contiguous blocks, and for those this was nowhere clearly slower (docs/checkpoint.md)
///   collective   every rank makes every call, and all pieces go in one collective operation. For
///                tests/bench/hdf5.cpp, by which another file system may be judged
///   independent  read, write and all queries are the affair of one rank; create_dataset,
///                write_attribute and close are still called by all
enum class Transfer { shared, collective, independent };

/// A part of a dataset: offset and count for its first axes; the axes after them are taken whole.
struct Slab {
  std::vector<Index> offset;
  std::vector<Index> count;
};

/// The rows of a tensor (at least one axis) that part `part` of `parts` owns: an even cut of the first axis.
Slab row_share(std::span<Index const> shape, Index part, Index parts);

/// An HDF5 file. With a communicator the file is opened by all its ranks through MPI-IO with collective
/// metadata; every method is then collective and, unless said otherwise, an error on any rank throws the same
/// `AgreedError` on all. Without one (nullptr) the file belongs to this rank alone and errors are `Error`.
/// Each error is one line with file, object, what was found and what is wanted.
///
/// Should the collective open itself succeed on some ranks only (a node lost its file system in that moment),
/// the ranks throw plain `Error`, so that the job is aborted: MPI offers no way to close such a file.
///
/// T is float, double, int, Index or std::uint64_t; types are not converted. Paths are "group/dataset"; "/"
/// is the root. Extents of zero are allowed everywhere.
class H5File {
 public:
  /// Creates `temporary_name(path)`; it becomes `path` in `close`.
  static H5File create(std::string path, Communicator const* comm, Transfer transfer = Transfer::shared);
  /// Opens for reading.
  static H5File open(std::string path, Communicator const* comm, Transfer transfer = Transfer::shared);
  /// A file that was created and not closed is abandoned: its temporary is removed. What cannot be closed in
  /// safety (see `Impl`) HDF5 closes when MPI ends.
  ~H5File();
  H5File(H5File&&) noexcept;
  H5File& operator=(H5File&&) noexcept;

  std::string const& path() const;

  /// A new dataset, with the groups on its way. Nothing is filled in: every element must be written exactly
  /// once, by whichever rank, and `close` counts them.
  template <class T>
  void create_dataset(std::string const& name, std::span<Index const> shape);

  /// Writes a part, `data` in row-major order. With several ranks each gives its own part, possibly empty.
  /// What passes the request limit is sent in several requests.
  template <class T>
  void write(std::string const& name, std::span<T const> data, Slab const& slab);
  /// Reads a part; ranks may read the same.
  template <class T>
  void read(std::string const& name, std::span<T> data, Slab const& slab) const;

  /// Creates a dataset and writes all of it. `data` is the same on every rank; each rank writes its rows.
  template <class T>
  void write_all(std::string const& name, std::span<T const> data, std::span<Index const> shape);
  /// All of a dataset, on every rank that calls.
  template <class T>
  std::vector<T> read_all(std::string const& name) const;

  /// Attribute of a group or dataset; T is std::string, Index or double. Groups on the way are created. Every
  /// rank gives the same value.
  template <class T>
  void write_attribute(std::string const& path, std::string const& name, T const& value);
  template <class T>
  T read_attribute(std::string const& path, std::string const& name) const;
  bool has_attribute(std::string const& path, std::string const& name) const;
  /// Names of the attributes of an object, sorted.
  std::vector<std::string> attributes(std::string const& path) const;
  /// An attribute of any type that `write_attribute` takes, as text.
  std::string attribute_text(std::string const& path, std::string const& name) const;

  bool exists(std::string const& path) const;
  bool is_dataset(std::string const& path) const;
  /// Names directly below a group, sorted.
  std::vector<std::string> names(std::string const& group = "/") const;
  std::vector<Index> shape(std::string const& dataset) const;
  /// "float32", "float64", "int32", "int64", "uint64", or a description of another type.
  std::string type(std::string const& dataset) const;
  /// Throws unless the dataset is there with elements of type T and this shape.
  template <class T>
  void require_dataset(std::string const& name, std::span<Index const> shape) const;

  /// Closes; a created file is counted, flushed, synced and given its final name. Collective.
  void close();

  /// Largest request in bytes (default 2^30; MPI counts end at 2^31). Smaller values are for tests.
  void set_request_limit(Index bytes);
  /// Whether HDF5 really moved the last part collectively.
  bool last_transfer_collective() const;

 private:
  struct Impl;
  explicit H5File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace upit
