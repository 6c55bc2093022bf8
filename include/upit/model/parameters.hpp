// SPDX-License-Identifier: Apache-2.0
// Owns the parameter table: every tensor's name, shape and place in three flat buffers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "upit/core/types.hpp"
#include "upit/model/config.hpp"

namespace upit {

enum class Group : int { backbone = 0, expert = 1, router = 2 };

/// Which groups a stage trains.
struct Trained {
  bool backbone = false, expert = false, router = false;
  bool operator[](Group g) const {
    return g == Group::backbone ? backbone : g == Group::expert ? expert : router;
  }
};

/// The experts that a rank holds: all, or a contiguous range of them.
struct ExpertRange {
  Index first = 0;
  Index count = -1;  // -1: all
};

/// One tensor. Offsets count elements and are multiples of `kAlignment`; the padding between is zero.
struct Tensor {
  std::string name;
  Group group = Group::backbone;
  int layer = -1;              // -1 outside the layers
  std::vector<Index> shape;    // of what is here; expert tensors: the expert is the first axis
  Index first = 0;             // where the first axis begins in the whole tensor
  Index rows = 0;              // extent of the first axis of the whole tensor
  Index offset = 0;            // into the group's buffer
  Index gradient_offset = -1;  // into the gradient buffer; -1: not trained
  Index size() const;
  std::vector<Index> whole_shape() const;
};

/// A stretch of consecutive trained elements of one group, padding included.
struct TrainedSpan {
  Group group;
  Index offset, gradient_offset, size;
};

/// Names and shapes, in buffer order:
///   embedding (V, C); per layer l: layers.l.attention_norm (C), layers.l.attention.qkv ((H+2G)D, C) rows q,
///   k, v, layers.l.attention.out (C, HD), layers.l.ffn_norm (C), layers.l.ffn.gate_up (2F, C) rows gate, up,
///   layers.l.ffn.down (C, F); norm (C); head (V, C) unless tied.
///   expert, LoRA: layers.l.lora.gate_up_a (E, 2R, C) rows gate, up; layers.l.lora.gate_b (E, R, F),
///   layers.l.lora.up_b (E, R, F), layers.l.lora.down_a (E, R, F), layers.l.lora.down_b (E, R, C).
///   Every B is stored transposed, so that the experts of a layer stack into one matrix with E*R rows.
///   expert, FFN: layers.l.experts.gate_up (El, 2F, C) rows gate, up; layers.l.experts.down (El, C, F); the
///   backbone then has no layers.l.ffn.*. El of the E experts are here: the range that the rank holds.
///   router: layers.l.router (E, C), on every rank.
class ParameterTable {
 public:
  /// Elements; 256 bytes for two-byte storage, so at least that for every type.
  static constexpr Index kAlignment = 128;

  ParameterTable() = default;
  /// `held`: of FFN experts; LoRA experts are always all here.
  ParameterTable(ModelConfig const& model, ExpertConfig const& expert, Trained trained = {},
                 ExpertRange held = {});

  std::vector<Tensor> const& tensors() const { return tensors_; }
  /// Throws `Error` with the name if there is no such tensor.
  Tensor const& find(std::string_view name) const;
  Tensor const& find(int layer, std::string_view rest) const;  // "layers.<layer>.<rest>"
  bool contains(std::string_view name) const;
  /// Elements of a group's buffer, padding included.
  Index extent(Group group) const { return extent_[static_cast<int>(group)]; }
  Index gradient_extent() const { return gradient_extent_; }
  /// Where a group's gradients lie: [first, first + count) of the gradient buffer, padding included.
  struct Stretch {
    Index first = 0, count = 0;
  };
  Stretch gradient_of(Group group) const;
  ExpertRange held() const { return held_; }
  Trained trained() const { return trained_; }
  /// Parameters that are here, padding left out.
  Index count(Group group) const;
  Index trained_count() const;
  std::vector<TrainedSpan> trained_spans() const;

 private:
  void add(std::string name, Group group, int layer, std::vector<Index> shape);
  void add_lora(ModelConfig const& model, ExpertConfig const& expert);
  void add_ffn_experts(ModelConfig const& model, ExpertConfig const& expert);

  std::vector<Tensor> tensors_;
  Index extent_[3] = {0, 0, 0};
  Index gradient_extent_ = 0;
  Trained trained_;
  ExpertRange held_{0, 0};
};

/// The weights of a model: one buffer per group, laid out by the table.
template <class T>
struct Weights {
  View1<T> backbone;
  View1<T> expert;
  View1<Real<T>> router;  // f32 even when the rest is bf16

  Weights() = default;
  explicit Weights(ParameterTable const& table);  // zeros

  View1<T> tensor(Tensor const& t) const;  // router tensors: only when Real<T> is T
};

/// Fills the backbone as a new Llama: N(0, 0.02), output projections divided by sqrt(2L), norms one. Keyed by
/// (seed, tensor, element).
template <class T>
void initialise_backbone(ParameterTable const& table, ModelConfig const& model, std::uint64_t seed,
                         Weights<T> const& weights);

/// Fills LoRA experts: A Kaiming uniform with a = sqrt 5, so U(-1/sqrt(fan_in), 1/sqrt(fan_in)); B zero.
/// Every expert gets the same A0, keyed by (seed, layer, matrix, element).
template <class T>
void initialise_lora(ParameterTable const& table, std::uint64_t seed, Weights<T> const& weights);

/// Fills router rows with N(0, 0.02), keyed by (seed, layer, first_expert + row, channel).
template <class T>
void initialise_router(ParameterTable const& table, std::uint64_t seed, Index first_expert,
                       Weights<T> const& weights);

/// One of those values.
double random_router_weight(std::uint64_t seed, Index layer, Index expert, Index channel);

extern template struct Weights<float>;
extern template struct Weights<double>;
extern template struct Weights<bfloat16>;

}  // namespace upit
