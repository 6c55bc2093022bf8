// SPDX-License-Identifier: Apache-2.0
// Owns the way from the command line to a command.
#include "commands.hpp"
#include "upit/config/check.hpp"
#include "upit/config/printer.hpp"
#include "upit/config/reader.hpp"
#include "upit/core/runtime.hpp"

namespace upit {
namespace {

/// Launchers can give ranks different words; what follows is collective.
Command agreed_command(int argc, char** argv, Communicator const& world) {
  std::string words;
  for (int i = 1; i < argc; ++i) words += std::string(argv[i]) + '\n';
  world.agree(world.same(words) ? "" : "ranks were started with different command lines");
  Command command;
  world.agree([&] { command = parse_command_line(argc, argv); });
  return command;
}

/// A rehearsal runs beside the real run and from the beginning.
int run_command(RunCommand const& command, std::string const& surroundings, Communicator const& world,
                Console& console) {
  Deck deck = read_deck(command.deck, command.overrides, world);
  console.say(surroundings);
  for (auto const& warning : deck_warnings(deck)) console.say("warning: " + warning);
  upcycle::RunOptions options;
  options.redo = command.redo;
  if (command.rehearse) {
    constexpr Index kSteps = 2;
    options.rehearse = kSteps;
    options.redo = "pretrain";
    std::string& directory = deck.run.directory;
    while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
    directory += "-rehearsal";
  }
  return run_deck(deck, world, console, options);
}

class Dispatch {
 public:
  Dispatch(Runtime const& runtime, Communicator const& world, Console& console)
      : runtime_(&runtime), world_(&world), console_(&console) {}

  int operator()(RunCommand const& command) const {
    return run_command(command, runtime_->description(), *world_, *console_);
  }
  int operator()(CheckCommand const& command) const {
    Deck const deck = read_deck(command.deck, command.overrides, *world_);
    return check_deck(deck, command.ranks, runtime_->description(), *world_, *console_);
  }
  int operator()(DeckCommand const& command) const {
    Deck deck;
    if (command.deck.empty()) {
      world_->agree([&] { deck = parse_deck("", "defaults", command.overrides); });
    } else {
      deck = read_deck(command.deck, command.overrides, *world_);
    }
    return print(print_deck(deck, command.comments));
  }
  int operator()(InspectCommand const& command) const { return inspect(command, *world_, *console_); }
  int operator()(EvalCommand const& command) const { return evaluate_model(command, *world_, *console_); }
  int operator()(BenchCommand const& command) const {
    return bench(command, runtime_->description(), *world_, *console_);
  }
  int operator()(TextCommand const& command) const { return print(command.text); }

 private:
  int print(std::string text) const {
    while (!text.empty() && text.back() == '\n') text.pop_back();  // the console ends lines
    console_->say(text);
    return 0;
  }

  Runtime const* runtime_;
  Communicator const* world_;
  Console* console_;
};

}  // namespace
}  // namespace upit

int main(int argc, char** argv) {
  upit::Runtime runtime(argc, argv);
  return runtime.run([&] {
    auto const world = upit::Communicator::world();
    upit::Console console(world.root());
    return std::visit(upit::Dispatch(runtime, world, console), upit::agreed_command(argc, argv, world));
  });
}
