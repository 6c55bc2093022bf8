// SPDX-License-Identifier: Apache-2.0
// Owns opening, closing and agreement of HDF5 files.
#include "upit/io/hdf5.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "hdf5_impl.hpp"
#include "upit/core/error.hpp"

namespace upit {

namespace {

H5Handle access_list(Communicator const* comm, Transfer transfer) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // errors are ours to report
  H5Handle list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  bool ok = static_cast<bool>(list);
  // From the 1.8 format on an attribute may pass 64 KiB: a deck with a long list does.
  ok = ok && H5Pset_libver_bounds(list.get(), H5F_LIBVER_V18, H5F_LIBVER_LATEST) >= 0;
#if H5_VERSION_GE(1, 10, 7)
  // The run directory is locked as a whole; HDF5's own lock fails on file systems without flock.
  ok = ok && H5Pset_file_locking(list.get(), false, true) >= 0;
#endif
  if (comm != nullptr) {
    ok = ok && H5Pset_fapl_mpio(list.get(), comm->get(), MPI_INFO_NULL) >= 0;
    ok = ok && H5Pset_coll_metadata_write(list.get(), true) >= 0;
    if (transfer != Transfer::independent) ok = ok && H5Pset_all_coll_metadata_ops(list.get(), true) >= 0;
  }
  require(ok, "HDF5: cannot prepare to open a file" + hdf5_reason());
  return list;
}

// What open(2) says is clearer than HDF5's own words for it.
void check_signature(std::string const& path) {
  FileDescriptor const file(path, O_RDONLY);
  char found[8] = {};
  ssize_t const count = ::pread(file.get(), found, sizeof(found), 0);
  require(count >= 0, fmt::format("{}: cannot read: {}", path, std::strerror(errno)));
  require(count == 8 && std::memcmp(found, "\x89HDF\r\n\x1a\n", 8) == 0, path + ": not an HDF5 file");
}

herr_t keep_description(unsigned, H5E_error2_t const* entry, void* out) {
  auto* text = static_cast<std::string*>(out);
  if (text->empty() && entry->desc != nullptr) *text = entry->desc;
  return 0;
}

}  // namespace

std::string hdf5_reason() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_description, &text);
  H5Eclear2(H5E_DEFAULT);
  // The drivers wrap what the system said in addresses and sizes of no use to anybody.
  constexpr std::string_view kSystem = "error message = '";
  if (auto const at = text.find(kSystem); at != std::string::npos) {
    text = text.substr(at + kSystem.size());
    text.resize(std::min(text.find('\''), text.size()));
  }
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? text : " (" + text + ")";
}

Slab row_share(std::span<Index const> shape, Index part, Index parts) {
  expect(!shape.empty() && part >= 0 && part < parts, "row_share: a shape with axes and a part below parts");
  Index const each = shape[0] / parts;
  Index const more = shape[0] % parts;
  return {{part * each + std::min(part, more)}, {each + (part < more ? 1 : 0)}};
}

H5File::Impl::~Impl() {
  if (!file) return;
  if (writing) {
    abandon();
  } else if (comm != nullptr && std::uncaught_exceptions() > exceptions) {
    file.leak();  // closing is collective and this rank may be alone
  } else {
    file.close();
  }
}

void H5File::Impl::together(std::function<void()> const& work) const {
  expect(static_cast<bool>(file), "HDF5: the file is closed");
  if (comm == nullptr) return work();
  std::string error;
  try {
    work();
  } catch (Error const& e) {
    error = e.what();
  }
  comm->agree(error);
}

void H5File::Impl::query(std::function<void()> const& work) const {
  if (transfer != Transfer::independent) return together(work);
  expect(static_cast<bool>(file), "HDF5: the file is closed");
  work();
}

void H5File::Impl::change(std::function<void()> const& work) {
  expect(writing, "HDF5: the file is open for reading");
  or_abandon([&] { together(work); });
}

void H5File::Impl::or_abandon(std::function<void()> const& work) {
  try {
    work();
  } catch (AgreedError const& e) {
    abandon();
    throw AgreedError(e.what(), Ending::abort);
  } catch (Error const& e) {
    abandon();
    throw Error(e.what(), Ending::abort);
  }
}

void H5File::Impl::abandon() {
  file.leak();
  if (writing && root()) ::unlink(opened.c_str());
}

H5File::H5File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
H5File::~H5File() = default;
H5File::H5File(H5File&&) noexcept = default;
H5File& H5File::operator=(H5File&&) noexcept = default;

namespace {

// Ends the collective open: all ranks hold the file, or all throw the same, or the job must be aborted.
void settle_open(H5Handle& file, Communicator const* comm, std::string const& error) {
  if (comm == nullptr) return require(static_cast<bool>(file), error);
  Index const failed = comm->sum(static_cast<Index>(file ? 0 : 1));
  if (failed == 0) return;
  if (failed == comm->size()) comm->agree(error);
  bool const here = static_cast<bool>(file);
  file.leak();
  fail(here ? error.substr(0, error.find(": ")) + ": opened here, but not on every rank" : error);
}

}  // namespace

H5File H5File::create(std::string path, Communicator const* comm, Transfer transfer) {
  auto impl = std::make_unique<Impl>();
  impl->path = std::move(path);
  impl->opened = temporary_name(impl->path);
  impl->comm = comm;
  impl->transfer = transfer;
  impl->writing = true;
  auto const touch = [&] { FileDescriptor(impl->opened, O_WRONLY | O_CREAT | O_TRUNC).close(); };
  if (comm != nullptr) {
    comm->agree_on_root(touch);
    // MPI-IO may wait for ever where the file opens on some ranks only.
    comm->agree([&] { FileDescriptor(impl->opened, O_WRONLY).close(); });
  } else {
    touch();
  }
  H5Handle const access = access_list(comm, transfer);
  impl->file = H5Handle(H5Fcreate(impl->opened.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get()), H5Fclose);
  settle_open(impl->file, comm,
              impl->path + ": cannot create the HDF5 file" + (impl->file ? "" : hdf5_reason()));
  return H5File(std::move(impl));
}

H5File H5File::open(std::string path, Communicator const* comm, Transfer transfer) {
  auto impl = std::make_unique<Impl>();
  impl->path = std::move(path);
  impl->opened = impl->path;
  impl->comm = comm;
  impl->transfer = transfer;
  auto const look = [&] { check_signature(impl->path); };
  if (comm != nullptr) {
    comm->agree(look);
  } else {
    look();
  }
  H5Handle const access = access_list(comm, transfer);
  impl->file = H5Handle(H5Fopen(impl->path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
  settle_open(impl->file, comm,
              impl->path + ": truncated or damaged HDF5 file" + (impl->file ? "" : hdf5_reason()));
  return H5File(std::move(impl));
}

std::string const& H5File::path() const { return impl_->path; }
void H5File::set_request_limit(Index bytes) { impl_->request_limit = bytes; }
bool H5File::last_transfer_collective() const { return impl_->last_collective; }

void H5File::close() {
  Impl& f = *impl_;
  expect(static_cast<bool>(f.file), "HDF5: the file is closed");
  if (f.writing) {
    std::vector<Index> written;
    for (auto const& [name, p] : f.progress) written.push_back(p.written);
    if (f.comm != nullptr) f.comm->sum(written);
    std::size_t i = 0;
    for (auto const& [name, p] : f.progress) {
      expect(written[i] == p.elements, fmt::format("{}: dataset {}: {} of {} elements were written", f.path,
                                                   name, written[i], p.elements));
      ++i;
    }
    // With MPI-IO the flush syncs on every rank: rank 0's fsync below reaches its own node only.
    f.change([&] {
      require(H5Fflush(f.file.get(), H5F_SCOPE_GLOBAL) >= 0,
              f.path + ": cannot write to disk" + hdf5_reason());
    });
  }
  bool const closed = f.file.close();
  std::string const error = closed ? "" : f.path + ": cannot close" + hdf5_reason();
  f.or_abandon([&] {
    if (f.comm != nullptr) {
      f.comm->agree(error);
    } else {
      require(closed, error);
    }
    if (!f.writing) return;
    auto const commit = [&] { commit_file(f.opened, f.path); };
    if (f.comm != nullptr) {
      f.comm->agree_on_root(commit);
    } else {
      commit();
    }
  });
}

}  // namespace upit
