// SPDX-License-Identifier: Apache-2.0
// Owns the list of what the program can do: one function a command. All are collective and give the exit
// code.
#pragma once

#include "command_line.hpp"
#include "upit/comm/communicator.hpp"
#include "upit/config/deck.hpp"
#include "upit/core/console.hpp"
#include "upit/upcycle/run.hpp"

namespace upit {

/// Runs the stages of a deck, or goes on with them.
int run_deck(Deck const& deck, Communicator const& world, Console& console,
             upcycle::RunOptions const& options);

/// Prints the resolved deck, its warnings and what a run of it on `asked` ranks will take; 0: the ranks that
/// are here, or one group of them where a single rank looks. `surroundings`: ranks and threads in words.
/// Trains and writes nothing.
int check_deck(Deck const& deck, Index asked, std::string const& surroundings, Communicator const& world,
               Console& console);

/// Prints what files say about themselves and every tensor in them.
int inspect(InspectCommand const& command, Communicator const& world, Console& console);

/// Prints losses and perplexities of a model.
int evaluate_model(EvalCommand const& command, Communicator const& world, Console& console);

/// Times training steps. `surroundings` as above.
int bench(BenchCommand const& command, std::string const& surroundings, Communicator const& world,
          Console& console);

}  // namespace upit
