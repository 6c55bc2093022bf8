// SPDX-License-Identifier: Apache-2.0
// Owns the FFN experts of all layers on one rank: the way of tokens to them and back, and their products.
#pragma once

#include <memory>
#include <vector>

#include "upit/comm/rank_grid.hpp"
#include "upit/comm/token_exchange.hpp"
#include "upit/model/config.hpp"
#include "upit/model/parameters.hpp"

namespace upit {

template <class T>
struct FfnPass;

/// How FFN experts are spread over ranks. Without a grid, or with groups of one rank, every rank holds all.
struct ExpertParallel {
  RankGrid const* grid = nullptr;  // must outlive what is built with it
  double capacity = 2.0;           // rows of a rank's buffers over the balanced load
  Index chunks = 1;                // of a round of the exchange
  ExchangePath path = ExchangePath::automatic;

  bool spread() const { return grid != nullptr && grid->expert().size() > 1; }
  /// The experts that this rank holds.
  ExpertRange held(Index experts) const;
};

/// Bytes that `FfnExperts` takes: for each layer of which it keeps the state (all with backward, else one),
/// and once. `slots`: S; `rows`: M, which is S where every rank holds all experts.
struct ExpertBytes {
  Index per_layer = 0, once = 0;
};
template <class T>
ExpertBytes expert_bytes(ModelConfig const& model, ExpertConfig const& expert, Index slots, Index rows,
                         bool spread, bool with_backward);

/// S = N*K slots are sorted by expert and sent to the ranks that hold them; M rows at most come in at a time.
/// What one round cannot hold comes in further rounds: no token is dropped, and the FFN of further rounds is
/// computed again in the backward pass, so that buffers have one size whatever the router does.
///
///   y = W_down (silu(W_gate x) * W_up x) for each slot's expert;  out[n] = sum_k gate[n, k] y[n, k]
template <class T>
class FfnExperts {
 public:
  /// Collective over the group. `max_tokens`: of one pass on this rank; the largest of the group counts.
  FfnExperts(ModelConfig const& model, ExpertConfig const& expert, ExpertParallel const& parallel,
             Index max_tokens, bool with_backward);

  /// pass.state.h (N, C), expert (N, K) and gate (N, K) in; pass.scratch.branch (N, C) out. Collective over
  /// the group, with N = 0 on ranks without tokens. Waits for `exec` once: the counts go to the host.
  void forward(FfnPass<T> const& pass, Index layer);
  /// dout = pass.scratch.dx (N, C) in; dh (N, C) out unless `need_dh` is false; adds to dgate (N, K) and to
  /// the gradients of trained experts.
  void backward(FfnPass<T> const& pass, Index layer, bool need_dh);

  /// Time and bytes of exchanges since the last call; zeros without a group.
  ExchangeStatistics take_statistics();
  /// (L) rows that have come to this rank's experts in forward passes; begins anew with the first forward
  /// after `take_statistics`. Empty without a group.
  std::vector<double> const& received() const { return received_; }
  /// Most rounds that an exchange has taken since construction; 1 without a group.
  Index rounds() const { return rounds_; }
  /// As `expert_bytes` says.
  Index bytes() const { return bytes_; }

 private:
  /// What an expert's FFN keeps for backward, of up to M rows sorted by expert.
  struct Rows {
    View2<T> x;        // (M, C)
    View2<T> gate_up;  // (M, 2F); its gradient after backward
    View2<T> act;      // (M, F)
  };
  struct Layer {
    View1<Index> offset;             // (E + 1) first sorted slot of each expert
    PinnedView1<Index> offset_host;  // (E + 1)
    View1<int> order, place;         // (S) slot at each sorted place; its inverse
    View2<T> y;                      // (S, C) what the experts gave; the gradient of it in backward
    Rows kept;                       // of the first round
    std::shared_ptr<ExchangePlan> plan;
  };
  using Piece = ExchangePlan::Piece;
  using Pending = typename TokenExchange<T>::Pending;

  template <class V>
  V make(char const* name, Index rows, Index columns);
  Rows make_rows(char const* name, Index rows);
  Layer make_layer(Index slots, Index rows);
  Layer layer(Index l, Index tokens) const;
  Rows rows_of(Layer const& l, Piece const& piece) const;
  View2<T> arrived(Piece const& piece) const;
  View1<int const> arrival(Exec const& exec, ExchangePlan const& plan, Piece const& piece) const;
  void activate(FfnPass<T> const& pass, Index const* offset, Rows const& rows) const;
  void apply_down(FfnPass<T> const& pass, Index const* offset, Rows const& rows, View2<T> const& y) const;
  void differentiate(FfnPass<T> const& pass, Index const* offset, Rows const& rows, View2<T> const& dy,
                     View2<T> const& dx) const;
  void exchanged_forward(FfnPass<T> const& pass, Layer const& l, Index number);
  void exchanged_backward(FfnPass<T> const& pass, Layer const& l, bool need_dh);

  ModelConfig model_;
  ExpertConfig expert_;
  Index held_ = 0;  // El
  Index bytes_ = 0, rounds_ = 1;
  std::vector<double> received_;
  bool begin_anew_ = false;  // received_ has been told
  std::vector<Layer> layers_;
  View2<T> slots_;  // (S, C) sorted rows on their way out, and gradients on their way home
  View2<T> dact_;   // (M, F)
  std::unique_ptr<TokenExchange<T>> exchange_;
  // With a group only.
  View2<T> arrived_, sorted_;      // (M, C) by source; by expert: results, or their gradients
  View1<int> arrival_;             // (M) row among the arrived of each sorted row
  PinnedView1<int> arrival_host_;  // (M)
  Rows further_;                   // of rounds after the first
  Piece piece_[2];
};

extern template class FfnExperts<float>;
extern template class FfnExperts<double>;
extern template class FfnExperts<bfloat16>;

}  // namespace upit
