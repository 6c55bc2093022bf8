// SPDX-License-Identifier: Apache-2.0
// Owns the names, types and attributes of H5File.
#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "hdf5_impl.hpp"
#include "upit/core/error.hpp"

namespace upit {

namespace {

H5Handle string_type(std::size_t length) {
  H5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  require(type && H5Tset_size(type.get(), length + 1) >= 0 && H5Tset_cset(type.get(), H5T_CSET_UTF8) >= 0,
          "HDF5: cannot make a string type" + hdf5_reason());
  return type;
}

std::string read_string(hid_t attribute, hid_t type) {
  if (H5Tis_variable_str(type) > 0) {  // as other programs write them
    H5Handle const memory(H5Tcopy(type), H5Tclose);
    char* found = nullptr;
    if (H5Aread(attribute, memory.get(), &found) < 0 || found == nullptr) return {};
    std::string text = found;
    H5free_memory(found);
    return text;
  }
  std::string text(H5Tget_size(type), '\0');
  require(H5Aread(attribute, type, text.data()) >= 0, "HDF5: cannot read an attribute" + hdf5_reason());
  text.resize(std::min(text.find('\0'), text.size()));
  return text;
}

bool scalar(hid_t attribute) {
  H5Handle const space(H5Aget_space(attribute), H5Sclose);
  return space && H5Sget_simple_extent_npoints(space.get()) == 1;
}

}  // namespace

std::string hdf5_type_text(hid_t type) {
  std::size_t const bits = 8 * H5Tget_size(type);
  bool const little = H5Tget_order(type) != H5T_ORDER_BE;
  std::string const order = little ? "" : " big-endian";
  switch (H5Tget_class(type)) {
    case H5T_FLOAT:
      return fmt::format("float{}{}", bits, order);
    case H5T_INTEGER:
      return fmt::format("{}int{}{}", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits, order);
    case H5T_STRING:
      return "string";
    default:
      return fmt::format("another type of {} bits", bits);
  }
}

bool H5File::Impl::exists(std::string const& name) const {
  // HDF5 answers for the last link only and calls a missing group on the way an error.
  for (std::size_t end = name.find_first_not_of('/'); end != std::string::npos && end < name.size();) {
    end = std::min(name.find('/', end + 1), name.size());
    std::string const prefix = name.substr(0, end);
    htri_t const found = H5Lexists(file.get(), prefix.c_str(), H5P_DEFAULT);
    if (found <= 0) {
      H5Eclear2(H5E_DEFAULT);
      return false;
    }
    ++end;
  }
  return true;
}

H5Handle H5File::Impl::object(std::string const& name) const {
  require(exists(name), who("no group or dataset " + name));
  H5Handle o(H5Oopen(file.get(), name.c_str(), H5P_DEFAULT), H5Oclose);
  require(static_cast<bool>(o), who("cannot open " + name) + hdf5_reason());
  return o;
}

bool H5File::exists(std::string const& path) const {
  bool found = false;
  impl_->query([&] { found = impl_->exists(path); });
  return found;
}

bool H5File::is_dataset(std::string const& path) const {
  bool found = false;
  impl_->query([&] { found = impl_->exists(path) && H5Iget_type(impl_->object(path).get()) == H5I_DATASET; });
  return found;
}

std::vector<std::string> H5File::names(std::string const& group) const {
  std::vector<std::string> out;
  impl_->query([&] {
    H5Handle const o = impl_->object(group);
    require(H5Iget_type(o.get()) == H5I_GROUP, impl_->who(group + " is not a group"));
    H5G_info_t info{};
    require(H5Gget_info(o.get(), &info) >= 0, impl_->who("cannot list " + group) + hdf5_reason());
    for (hsize_t i = 0; i < info.nlinks; ++i) {
      auto const get = [&](char* to, std::size_t size) {
        return H5Lget_name_by_idx(o.get(), ".", H5_INDEX_NAME, H5_ITER_INC, i, to, size, H5P_DEFAULT);
      };
      ssize_t const length = get(nullptr, 0);
      require(length >= 0, impl_->who("cannot list " + group) + hdf5_reason());
      std::string name(static_cast<std::size_t>(length) + 1, '\0');
      get(name.data(), name.size());
      name.pop_back();
      out.push_back(std::move(name));
    }
  });
  std::sort(out.begin(), out.end());
  return out;
}

std::string H5File::type(std::string const& name) const {
  std::string text;
  impl_->query([&] {
    H5Handle const d = impl_->dataset(name, -1);
    H5Handle const type(H5Dget_type(d.get()), H5Tclose);
    text = hdf5_type_text(type.get());
  });
  return text;
}

template <class T>
void H5File::write_attribute(std::string const& path, std::string const& name, T const& value) {
  Impl& f = *impl_;
  f.change([&] {
    if (!f.exists(path)) {
      H5Handle const links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
      H5Pset_create_intermediate_group(links.get(), 1);
      H5Handle const group(H5Gcreate2(f.file.get(), path.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT),
                           H5Gclose);
      require(static_cast<bool>(group), f.who("cannot create group " + path) + hdf5_reason());
    }
    H5Handle const o = f.object(path);
    std::string const what = f.who(fmt::format("cannot write attribute {} of {}", name, path));
    if (H5Aexists(o.get(), name.c_str()) > 0) {
      require(H5Adelete(o.get(), name.c_str()) >= 0, what + hdf5_reason());
    }
    H5Handle text_type;
    hid_t file_type = -1;
    hid_t memory_type = -1;
    void const* data = &value;
    if constexpr (std::is_same_v<T, std::string>) {
      expect(value.find('\0') == std::string::npos, "HDF5: a string attribute with a zero byte");
      text_type = string_type(value.size());
      file_type = memory_type = text_type.get();
      data = value.c_str();
    } else {
      file_type = H5Type<T>::file();
      memory_type = H5Type<T>::memory();
    }
    H5Handle const space(H5Screate(H5S_SCALAR), H5Sclose);
    H5Handle const a(H5Acreate2(o.get(), name.c_str(), file_type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                     H5Aclose);
    require(a && H5Awrite(a.get(), memory_type, data) >= 0, what + hdf5_reason());
  });
}

namespace {

template <class T>
T attribute_value(hid_t object, std::string const& name, std::string const& who) {
  require(H5Aexists(object, name.c_str()) > 0, who + " is missing");
  H5Handle const a(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
  require(static_cast<bool>(a), who + " cannot be opened" + hdf5_reason());
  H5Handle const type(H5Aget_type(a.get()), H5Tclose);
  require(scalar(a.get()), who + " has several values, one is wanted");
  if constexpr (std::is_same_v<T, std::string>) {
    require(H5Tget_class(type.get()) == H5T_STRING,
            who + " has type " + hdf5_type_text(type.get()) + ", string is wanted");
    return read_string(a.get(), type.get());
  } else {
    require(H5Tequal(type.get(), H5Type<T>::file()) > 0, who + " has type " + hdf5_type_text(type.get()) +
                                                             ", " + hdf5_type_text(H5Type<T>::file()) +
                                                             " is wanted");
    T value{};
    require(H5Aread(a.get(), H5Type<T>::memory(), &value) >= 0, who + " cannot be read" + hdf5_reason());
    return value;
  }
}

}  // namespace

template <class T>
T H5File::read_attribute(std::string const& path, std::string const& name) const {
  T value{};
  impl_->query([&] {
    value = attribute_value<T>(impl_->object(path).get(), name,
                               impl_->who(fmt::format("attribute {} of {}", name, path)));
  });
  return value;
}

bool H5File::has_attribute(std::string const& path, std::string const& name) const {
  bool found = false;
  impl_->query(
      [&] { found = impl_->exists(path) && H5Aexists(impl_->object(path).get(), name.c_str()) > 0; });
  return found;
}

std::vector<std::string> H5File::attributes(std::string const& path) const {
  std::vector<std::string> out;
  impl_->query([&] {
    H5Handle const o = impl_->object(path);
    auto const add = [](hid_t, char const* name, H5A_info_t const*, void* list) -> herr_t {
      static_cast<std::vector<std::string>*>(list)->emplace_back(name);
      return 0;
    };
    require(H5Aiterate2(o.get(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &out) >= 0,
            impl_->who("cannot list the attributes of " + path) + hdf5_reason());
  });
  std::sort(out.begin(), out.end());
  return out;
}

std::string H5File::attribute_text(std::string const& path, std::string const& name) const {
  std::string text;
  impl_->query([&] {
    H5Handle const o = impl_->object(path);
    std::string const who = impl_->who(fmt::format("attribute {} of {}", name, path));
    require(H5Aexists(o.get(), name.c_str()) > 0, who + " is missing");
    H5Handle const a(H5Aopen(o.get(), name.c_str(), H5P_DEFAULT), H5Aclose);
    H5Handle const type(H5Aget_type(a.get()), H5Tclose);
    if (H5Tget_class(type.get()) == H5T_STRING) {
      text = attribute_value<std::string>(o.get(), name, who);
    } else if (H5Tequal(type.get(), H5Type<Index>::file()) > 0) {
      text = fmt::format("{}", attribute_value<Index>(o.get(), name, who));
    } else {
      text = fmt::format("{}", attribute_value<double>(o.get(), name, who));
    }
  });
  return text;
}

#define UPIT_H5_ATTRIBUTE(T)                                                                  \
  template void H5File::write_attribute<T>(std::string const&, std::string const&, T const&); \
  template T H5File::read_attribute<T>(std::string const&, std::string const&) const;
UPIT_H5_ATTRIBUTE(std::string)
UPIT_H5_ATTRIBUTE(Index)
UPIT_H5_ATTRIBUTE(double)
#undef UPIT_H5_ATTRIBUTE

}  // namespace upit
