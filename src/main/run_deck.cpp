// SPDX-License-Identifier: Apache-2.0
// Owns the order of the stages: the method, as the paper's abstract tells it.
#include <fmt/format.h>

#include "commands.hpp"
#include "upit/core/signals.hpp"
#include "upit/core/timer.hpp"
#include "upit/linalg/tf32.hpp"
#include "upit/upcycle/expand.hpp"
#include "upit/upcycle/outlook.hpp"
#include "upit/upcycle/route.hpp"
#include "upit/upcycle/stage.hpp"
#include "upit/upcycle/stages.hpp"

namespace upit {

int run_deck(Deck const& deck, Communicator const& world, Console& console,
             upcycle::RunOptions const& options) {
  install_stop_signals();
  Stopwatch const since_start;
  upcycle::Run run(deck, world, console, options);
  upcycle::check_run_directory(run);
  world.agree([&] { upcycle::check_outlook(deck, run.data()); });
  for (auto const& warning : upcycle::outlook_warnings(deck, run.data())) console.say("warning: " + warning);
  allow_tf32(deck.train.tf32);
  auto const base = upcycle::pretrain(run);
  auto const checkpoints = upcycle::prepare(run, base);
  auto const experts = upcycle::expand(run, checkpoints);
  auto const routed = upcycle::route(run, experts);
  auto const assembled = upcycle::assemble(run, routed);
  auto const trained = upcycle::post_train(run, assembled);
  upcycle::evaluate(run, base, experts, assembled, trained);
  console.say(fmt::format("done in {}", format_duration(since_start.seconds())));
  return 0;
}

}  // namespace upit
