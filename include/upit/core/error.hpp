// SPDX-License-Identifier: Apache-2.0
// Owns the exception types and the two functions that throw them.
#pragma once

#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>

namespace upit {

/// How the job ends after an error: MPI is finalized, or, where a library could not bear that, MPI_Abort.
enum class Ending { orderly, abort };

/// An error met by one rank. `Runtime::run` ends the job with MPI_Abort(1) unless the job has one rank.
class Error : public std::runtime_error {
 public:
  explicit Error(std::string const& what, Ending ending = Ending::orderly)
      : std::runtime_error(what), ending_(ending) {}
  Ending ending() const { return ending_; }

 private:
  Ending ending_;
};

/// An error that every rank throws together (see `Communicator::agree`): one line, exit 1 everywhere.
class AgreedError : public Error {
 public:
  using Error::Error;
};

/// Raised on every rank once a checkpoint is safe after a signal or the time limit: exit code 75.
class Interrupted : public std::runtime_error {
 public:
  explicit Interrupted(std::string const& what) : std::runtime_error(what) {}
};

/// Throws `Error(what)`. For what a user can cause: the text says what was found and what is allowed.
[[noreturn]] void fail(std::string const& what);

/// Throws `Error(what)` unless `condition` holds.
inline void require(bool condition, std::string const& what) {
  if (!condition) fail(what);
}
inline void require(bool condition, char const* what) {
  if (!condition) fail(what);
}

/// Throws `std::logic_error` naming the caller's file and line unless `condition` holds: a mistake of ours.
void expect(bool condition, std::string_view what,
            std::source_location where = std::source_location::current());

}  // namespace upit
