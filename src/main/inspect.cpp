// SPDX-License-Identifier: Apache-2.0
// Owns `upit inspect`: attributes and tensors of model files, with norms and extremes.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <numeric>

#include "commands.hpp"
#include "upit/core/error.hpp"
#include "upit/io/hdf5.hpp"
#include "upit/io/huggingface.hpp"

namespace upit {
namespace {

/// Of a tensor's elements; NaN and infinities are counted and left out of the rest.
struct Statistics {
  double squares = 0.0;
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  Index count = 0, broken = 0;

  template <class T>
  void add(std::span<T const> values) {
    for (T const value : values) {
      auto const x = static_cast<double>(value);
      ++count;
      if (!std::isfinite(x)) {
        ++broken;
        continue;
      }
      squares += x * x;
      low = std::min(low, x);
      high = std::max(high, x);
    }
  }
};

Index product(std::span<Index const> shape) {
  return std::accumulate(shape.begin(), shape.end(), Index{1}, std::multiplies<>());
}

std::string shape_text(std::span<Index const> shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

/// The table of one file. Tensors are read in pieces of this many elements, so memory does not grow with
/// them.
class Tensors {
 public:
  static constexpr Index kPiece = Index{1} << 22;

  void add(std::string const& name, std::string const& type, std::span<Index const> shape,
           Statistics const* s) {
    std::vector<std::string> row = {name, type, shape_text(shape), "-", "-", "-"};
    if (s != nullptr && s->count > s->broken) {
      row[3] = fmt::format("{:.6g}", std::sqrt(s->squares));
      row[4] = fmt::format("{:.6g}", s->low);
      row[5] = fmt::format("{:.6g}", s->high);
    }
    if (s != nullptr && s->broken > 0) row[5] += fmt::format(" and {} not finite", s->broken);
    table_.row(std::move(row));
    ++tensors_;
    elements_ += product(shape);
  }

  void print(Console& console) const {
    if (tensors_ > 0) console.say(table_);
    console.say(fmt::format("{} tensors, {} elements", format_count(tensors_), format_count(elements_)));
  }

 private:
  Table table_{{"tensor", "type", "shape", "norm", "min", "max"}};
  Index tensors_ = 0, elements_ = 0;
};

/// Rows at a time; a row longer than a piece is read whole.
template <class T>
Statistics statistics(H5File const& file, std::string const& name, std::vector<Index> const& shape) {
  Statistics result;
  if (shape.empty() || product(shape) == 0) {
    auto const values = file.read_all<T>(name);
    result.add(std::span<T const>(values));
    return result;
  }
  Index const row = product(shape) / shape[0];
  Index const rows = std::max<Index>(1, Tensors::kPiece / row);
  std::vector<T> values;
  for (Index first = 0; first < shape[0]; first += rows) {
    Index const count = std::min(rows, shape[0] - first);
    values.resize(static_cast<std::size_t>(count * row));
    file.read<T>(name, std::span<T>(values), Slab{{first}, {count}});
    result.add(std::span<T const>(values));
  }
  return result;
}

void add_dataset(H5File const& file, std::string const& name, Tensors& tensors) {
  auto const shape = file.shape(name);
  std::string const type = file.type(name);
  Statistics s;
  if (type == "float32") {
    s = statistics<float>(file, name, shape);
  } else if (type == "float64") {
    s = statistics<double>(file, name, shape);
  } else if (type == "int32") {
    s = statistics<int>(file, name, shape);
  } else if (type == "int64") {
    s = statistics<Index>(file, name, shape);
  } else if (type == "uint64") {
    s = statistics<std::uint64_t>(file, name, shape);
  } else {
    return tensors.add(name, type, shape, nullptr);
  }
  tensors.add(name, type, shape, &s);
}

void print_attributes(H5File const& file, std::string const& path, Console& console) {
  for (auto const& name : file.attributes(path)) {
    std::string const label = path == "/" ? name : path + "." + name;
    std::string const text = file.attribute_text(path, name);
    if (text.find('\n') == std::string::npos) {
      console.say(fmt::format("{}: {}", label, text));
      continue;
    }
    std::string indented = label + ":\n  ";
    for (char const c : text) indented += c == '\n' ? std::string("\n  ") : std::string(1, c);
    while (indented.back() == ' ' || indented.back() == '\n') indented.pop_back();
    console.say(indented);
  }
}

void walk(H5File const& file, std::string const& group, Console& console, Tensors& tensors) {
  for (auto const& child : file.names(group)) {
    std::string const path = group == "/" ? child : group + "/" + child;
    print_attributes(file, path, console);
    if (file.is_dataset(path)) {
      add_dataset(file, path, tensors);
    } else {
      walk(file, path, console, tensors);
    }
  }
}

void inspect_hdf5(std::string const& path, Console& console) {
  H5File file = H5File::open(path, nullptr);
  Tensors tensors;
  print_attributes(file, "/", console);
  walk(file, "/", console, tensors);
  tensors.print(console);
  file.close();
}

/// `source` is a SafetensorsFile or a HuggingFaceWeights.
template <class Source>
void add_safetensors(Source const& source, Tensors& tensors) {
  std::vector<float> values;
  for (auto const& name : source.names()) {
    SafetensorInfo const& info = source.info(name);
    if (info.dtype != "F32" && info.dtype != "F16" && info.dtype != "BF16") {
      tensors.add(name, info.dtype, info.shape, nullptr);
      continue;
    }
    Statistics s;
    for (Index first = 0; first < info.elements(); first += Tensors::kPiece) {
      values.resize(static_cast<std::size_t>(std::min(Tensors::kPiece, info.elements() - first)));
      source.read(name, first, std::span<float>(values));
      s.add(std::span<float const>(values));
    }
    tensors.add(name, info.dtype, info.shape, &s);
  }
}

void inspect_safetensors(std::string const& path, Console& console) {
  SafetensorsFile const file(path);
  for (auto const& [key, value] : file.metadata()) console.say(fmt::format("{}: {}", key, value));
  Tensors tensors;
  add_safetensors(file, tensors);
  tensors.print(console);
}

void inspect_directory(std::string const& path, Console& console) {
  HuggingFaceConfig const c = read_huggingface_config(path);
  console.say(fmt::format(
      "Hugging Face Llama: {} layers of width {}, {} heads of {} with {} key-value heads, FFN {}, "
      "vocabulary {}{}, {} positions, rope_theta {}, rms_norm_eps {}",
      c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.head_dim, c.num_key_value_heads,
      c.intermediate_size, c.vocab_size, c.tie_word_embeddings ? " (head tied)" : "",
      c.max_position_embeddings, c.rope_theta, c.rms_norm_eps));
  HuggingFaceWeights const weights(path);
  for (auto const& file : weights.files()) console.say("file: " + file);
  Tensors tensors;
  add_safetensors(weights, tensors);
  tensors.print(console);
}

bool is_hdf5(std::string const& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  std::ifstream file(path, std::ios::binary);
  std::string start(kSignature.size(), '\0');
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  return file && start == kSignature;
}

void inspect_path(std::string const& path, Console& console) {
  require(std::filesystem::exists(path), fmt::format("{} does not exist", path));
  bool const directory = std::filesystem::is_directory(path), hdf5 = !directory && is_hdf5(path);
  require(directory || hdf5 || path.ends_with(".safetensors"),
          fmt::format("{} is neither an HDF5 file, a .safetensors file, nor a Hugging Face directory", path));
  console.say(path);
  if (directory) {
    inspect_directory(path, console);
  } else if (hdf5) {
    inspect_hdf5(path, console);
  } else {
    inspect_safetensors(path, console);
  }
}

}  // namespace

int inspect(InspectCommand const& command, Communicator const& world, Console& console) {
  for (auto const& path : command.paths) {
    world.agree_on_root([&] { inspect_path(path, console); });
  }
  return 0;
}

}  // namespace upit
