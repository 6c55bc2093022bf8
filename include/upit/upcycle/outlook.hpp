// SPDX-License-Identifier: Apache-2.0
// Owns what deck and data say of a run before it begins: what must fail later, what is probably not meant.
#pragma once

#include <string>
#include <vector>

#include "upit/config/deck.hpp"
#include "upit/text/dataset.hpp"

namespace upit::upcycle {

/// Steps for which stage 3 trains an expert whose bucket is full; 0 without stage 3.
Index route_steps(Deck const& deck, TokenStore const& training_set);

/// Throws `Error` where a later stage would: too few steps for the checkpoints of stage 1, more documents
/// than stage 0 can make.
void check_outlook(Deck const& deck, Dataset const& data);

/// Sentences about what is allowed and probably not meant: experts that hardly train in stage 3, sources
/// without a sample, domains without a held-out one.
std::vector<std::string> outlook_warnings(Deck const& deck, Dataset const& data);

}  // namespace upit::upcycle
