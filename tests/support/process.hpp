// SPDX-License-Identifier: Apache-2.0
// Owns starting another program: its environment, output, end, and the end of everything it started.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

extern char** environ;

namespace upit::test {

/// How a program ended and what it said.
struct Outcome {
  int code = -1;           // exit code; 128 + signal if a signal ended it
  bool timed_out = false;  // it was still running at the limit and has been killed
  std::string out, err;
  std::string all() const { return "exit code " + std::to_string(code) + "\n" + out + err; }
};

inline std::string read_all_text(std::string const& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

/// Sleeps between two looks at what another program has done.
inline void nap(double milliseconds) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
}

/// Looks until `what` holds or the time is over; says whether it holds.
template <class What>
bool wait_until(What&& what, double seconds, double milliseconds = 0.5) {
  auto const end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!what()) {
    if (std::chrono::steady_clock::now() > end) return false;
    nap(milliseconds);
  }
  return true;
}

/// This process' environment without what launchers and OpenMP put there, and with `changes`. A launcher
/// refuses to start, or joins another job, where it finds the variables of one.
inline std::vector<std::string> clean_environment(std::map<std::string, std::string> const& changes) {
  std::vector<std::string> kept;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    std::string_view const text = *variable;
    std::string const name(text.substr(0, text.find('=')));
    bool drop = changes.contains(name);
    for (std::string_view prefix : {"OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDRA_", "MPI_", "OMP_", "KOKKOS_"}) {
      drop = drop || name.starts_with(prefix);
    }
    if (!drop) kept.emplace_back(text);
  }
  for (auto const& [name, value] : changes) kept.push_back(name + "=" + value);
  return kept;
}

/// A program under way. Its output goes to files, so that no reader can block it and a process that outlives
/// it cannot block us. The destructor kills what is left of it.
class Process {
 public:
  /// `folder` receives the output and is the current directory.
  Process(std::vector<std::string> const& command, std::vector<std::string> const& environment,
          std::string const& folder, std::string const& name)
      : out_(folder + "/" + name + ".out"), err_(folder + "/" + name + ".err") {
    // All memory is taken before fork: after it only calls that are safe in a signal handler.
    std::vector<char*> arguments, variables;
    for (auto const& text : command) arguments.push_back(const_cast<char*>(text.c_str()));
    for (auto const& text : environment) variables.push_back(const_cast<char*>(text.c_str()));
    arguments.push_back(nullptr);
    variables.push_back(nullptr);
    id_ = ::fork();
    if (id_ < 0) throw std::runtime_error(std::string("fork: ") + std::strerror(errno));
    if (id_ == 0) {
      int const in = ::open("/dev/null", O_RDONLY);
      int const out = ::open(out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      int const err = ::open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      if (::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0 || ::chdir(folder.c_str()) != 0) {
        ::_exit(126);
      }
      ::execve(arguments[0], arguments.data(), variables.data());
      ::_exit(127);
    }
  }
  ~Process() {
    kill_all();
    reap(true);
  }
  Process(Process const&) = delete;
  Process& operator=(Process const&) = delete;

  pid_t id() const { return id_; }
  bool running() { return !reap(false); }
  /// Output so far.
  std::string out() const { return read_all_text(out_); }

  void send(int signal) {
    if (running()) ::kill(id_, signal);
  }

  /// All processes that come from this one. What has lost its parent is not found.
  std::vector<pid_t> descendants() const {
    std::map<pid_t, std::vector<pid_t>> children;
    for (auto const& entry : std::filesystem::directory_iterator("/proc")) {
      std::string const name = entry.path().filename().string();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::string const stat = read_all_text("/proc/" + name + "/stat");
      auto const after_name = stat.rfind(')');  // the name may hold anything
      if (after_name == std::string::npos) continue;
      std::istringstream rest(stat.substr(after_name + 1));
      char state = 0;
      pid_t parent = 0;
      rest >> state >> parent;
      if (state != 'Z') children[parent].push_back(static_cast<pid_t>(std::stol(name)));
    }
    std::vector<pid_t> found = children[id_];
    for (std::size_t i = 0; i < found.size(); ++i) {
      auto const& next = children[found[i]];
      found.insert(found.end(), next.begin(), next.end());
    }
    return found;
  }

  /// SIGKILL to all of it, as a batch system at the end of the time does. Everything is stopped first, so
  /// that no part sees another die.
  void kill_all() {
    if (!running()) return;
    ::kill(id_, SIGSTOP);
    std::vector<pid_t> const all = descendants();
    for (pid_t const one : all) ::kill(one, SIGSTOP);
    for (pid_t const one : all) ::kill(one, SIGKILL);
    ::kill(id_, SIGKILL);
    // A killed rank holds the lock of the run directory until the kernel has buried it.
    wait_until([&] { return std::ranges::none_of(all, [](pid_t p) { return alive(p); }); }, 10.0);
    reap(true);
  }

  /// Waits for the end; past the limit everything is killed.
  Outcome wait(double seconds) {
    Outcome outcome;
    outcome.timed_out = !wait_until([&] { return !running(); }, seconds, 2.0);
    if (outcome.timed_out) kill_all();
    outcome.code = code_;
    outcome.out = read_all_text(out_);
    outcome.err = read_all_text(err_);
    return outcome;
  }

 private:
  /// A process that is dead and not yet buried by its parent counts as gone.
  static bool alive(pid_t process) {
    std::string const stat = read_all_text("/proc/" + std::to_string(process) + "/stat");
    auto const after_name = stat.rfind(") ");
    return after_name != std::string::npos && stat[after_name + 2] != 'Z' && stat[after_name + 2] != 'X';
  }

  bool reap(bool block) {
    if (ended_) return true;
    int status = 0;
    pid_t got = 0;
    do {
      got = ::waitpid(id_, &status, block ? 0 : WNOHANG);
    } while (got < 0 && errno == EINTR);
    if (got == 0) return false;
    ended_ = true;
    code_ = got < 0 ? -1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return true;
  }

  std::string out_, err_;
  pid_t id_ = -1;
  bool ended_ = false;
  int code_ = -1;
};

}  // namespace upit::test
