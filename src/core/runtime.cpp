// SPDX-License-Identifier: Apache-2.0
#include "upit/core/runtime.hpp"

#include <fmt/core.h>
#include <mpi.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <vector>

#include "upit/core/error.hpp"
#include "upit/core/processors.hpp"
#include "upit/core/signals.hpp"
#include "upit/core/types.hpp"

#if !defined(KOKKOS_ENABLE_CUDA) && !defined(KOKKOS_ENABLE_HIP)
extern "C" void openblas_set_num_threads(int threads);
#endif

namespace upit {
namespace {

constexpr int kExitError = 1;
constexpr int kExitInterrupted = 75;  // EX_TEMPFAIL: run the same command again

/// What libraries put into an exception can have several lines and a stack trace.
std::string first_line(std::string const& text) {
  std::string line = text.substr(0, text.find('\n'));
  line.erase(std::min(line.size(), line.find("Traceback")));
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line.empty() ? "unknown error" : line;
}

void print_line(std::string const& text) {
  std::fflush(stdout);
  fmt::print(stderr, "upit: {}\n", text);
  std::fflush(stderr);
}

/// For what is thrown where nobody can catch it, in a thread of a parallel region or in a destructor.
[[noreturn]] void end_in_one_line() {
  std::string what = "unknown error";
  if (std::exception_ptr const thrown = std::current_exception()) {
    try {
      std::rethrow_exception(thrown);
    } catch (std::bad_alloc const&) {
      what = "out of memory";
    } catch (std::exception const& e) {
      what = first_line(e.what());
    } catch (...) {
    }
  }
  int initialized = 0;
  int finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  if (initialized != 0 && finalized == 0) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int size = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size > 1) {
      print_line(fmt::format("error: rank {} of {}: {}", rank, size, what));
      MPI_Abort(MPI_COMM_WORLD, kExitError);
      std::_Exit(kExitError);
    }
  }
  print_line(fmt::format("error: {}", what));
  std::_Exit(kExitError);
}

/// Every rank comes here. No rank ends the job before rank 0 has said why.
[[noreturn]] void abort_together() {
  MPI_Barrier(MPI_COMM_WORLD);
  MPI_Abort(MPI_COMM_WORLD, kExitError);
  std::_Exit(kExitError);
}

/// This rank among those on its node.
struct Node {
  int rank = 0;
  int size = 1;
  std::vector<int> users;  // users[cpu]: ranks that may run there
};

Node look_around(std::vector<int> const& cpus) {
  Node node;
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &comm);
  MPI_Comm_rank(comm, &node.rank);
  MPI_Comm_size(comm, &node.size);
  int last = cpus.back();
  MPI_Allreduce(MPI_IN_PLACE, &last, 1, MPI_INT, MPI_MAX, comm);
  node.users.assign(static_cast<std::size_t>(last) + 1, 0);
  for (int const cpu : cpus) node.users[static_cast<std::size_t>(cpu)] = 1;
  MPI_Allreduce(MPI_IN_PLACE, node.users.data(), last + 1, MPI_INT, MPI_SUM, comm);
  MPI_Comm_free(&comm);
  return node;
}

struct Threads {
  int count = 1;
  std::string reason;
  bool unbound = false;  // a binding to one core was undone
};

#ifdef _OPENMP
Threads choose_threads(Node const& node, std::vector<int> const& cpus) {
  char const* const wish = std::getenv("OMP_NUM_THREADS");
  if (wish != nullptr && *wish != '\0') {
    return {omp_get_max_threads(), fmt::format("OMP_NUM_THREADS={}", wish)};
  }
  Threads chosen;
  int share = share_of_cpus(cpus, node.users);
  if (node.size == 1) {
    auto wider = cpus;
    // Launchers bind a lone rank to one core. Wherever the kernel lets us run, nobody of this job is in the
    // way.
    if (on_one_core(cpus) && allow_cpus(online_cpus())) wider = allowed_cpus();
    chosen.unbound = wider.size() > cpus.size();
    share = static_cast<int>(wider.size());
    chosen.reason = fmt::format("CPUs {}", cpu_list(wider));
    if (chosen.unbound) chosen.reason += fmt::format(", binding to the core of CPU {} undone", cpus.front());
  } else {
    int users = 1;
    for (int const cpu : cpus) users = std::max(users, node.users[static_cast<std::size_t>(cpu)]);
    chosen.reason = users > 1 ? fmt::format("CPUs {} shared by {} ranks", cpu_list(cpus), users)
                              : fmt::format("bound to own CPUs, rank 0 to {}", cpu_list(cpus));
  }
  chosen.count = std::clamp(share, 1, omp_get_thread_limit());
  return chosen;
}

/// With OMP_PROC_BIND=true OpenMP took the places for its threads from the binding that has been undone.
void unbind_threads(int threads) {
  auto const cpus = online_cpus();
#pragma omp parallel num_threads(threads)
  allow_cpus(cpus);
}
#else
Threads choose_threads(Node const&, std::vector<int> const&) { return {1, "built without OpenMP"}; }
void unbind_threads(int) {}
#endif

#if defined(KOKKOS_ENABLE_CUDA) || defined(KOKKOS_ENABLE_HIP)
int device_count() {
#if KOKKOS_VERSION >= 40300
  return Kokkos::num_devices();
#elif defined(KOKKOS_ENABLE_CUDA)
  return static_cast<int>(Kokkos::Cuda::detect_device_count());
#elif KOKKOS_VERSION >= 40000
  return static_cast<int>(Kokkos::HIP::detect_device_count());
#else
  return static_cast<int>(Kokkos::Experimental::HIP::detect_device_count());
#endif
}
#else
int device_count() { return 0; }
#endif

std::string counted(int n, std::string const& thing) {
  return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
}

}  // namespace

Runtime::Runtime(int& argc, char**& argv) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized == 0) {
    int provided = MPI_THREAD_SINGLE;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    owns_mpi_ = true;
    std::set_terminate(end_in_one_line);
    require(provided >= MPI_THREAD_FUNNELED, "this MPI library does not allow threads (MPI_THREAD_FUNNELED)");
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &size_);
  // A write beyond the limit of file size then fails with its reason, as on a full disk, and the file is
  // named.
  std::signal(SIGXFSZ, SIG_IGN);

  auto const cpus = allowed_cpus();
  Node const node = look_around(cpus);
  ThreadsWithoutStopSignals const only_this_one;  // the workers of OpenMP and OpenBLAS start below
  bool const running = Kokkos::is_initialized();
  Threads const chosen =
      running ? Threads{HostExec().concurrency(), "Kokkos was running"} : choose_threads(node, cpus);
  threads_ = chosen.count;
  if (!running) start_kokkos(node.rank);
  if (chosen.unbound) unbind_threads(chosen.count);

  // Extremes over all ranks and the words of rank 0, so that every rank tells the same story.
  int const room = chosen.unbound
                       ? static_cast<int>(allowed_cpus().size())
                       : static_cast<int>(std::ranges::count_if(node.users, [](int u) { return u > 0; }));
  int const online = static_cast<int>(online_cpus().size());
  std::array<int, 4> extremes = {chosen.count, -chosen.count, chosen.count * node.size > room ? 1 : 0,
                                 node.rank == 0 ? online - room : 0};
  MPI_Allreduce(MPI_IN_PLACE, extremes.data(), 4, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  int nodes = node.rank == 0 ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &nodes, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
  std::array<char, 512> reason{};
  chosen.reason.copy(reason.data(), reason.size() - 1);
  MPI_Bcast(reason.data(), static_cast<int>(reason.size()), MPI_CHAR, 0, MPI_COMM_WORLD);

  description_ = fmt::format(
      "{} on {}, {}{} ({}{}{}), {}", counted(size_, "rank"), counted(nodes, "node"),
      extremes[0] == -extremes[1] ? counted(extremes[0], "thread")
                                  : fmt::format("{} to {} threads", -extremes[1], extremes[0]),
      size_ > 1 ? " each" : "", reason.data(), extremes[2] > 0 ? "; more threads than CPUs" : "",
      extremes[3] > 0 ? fmt::format("; {} left unused on a node", counted(extremes[3], "CPU")) : "",
      Exec::name());
  if (int const devices = device_count(); devices > 0) {
    description_ += fmt::format(", {} a node, by the rank's number there", counted(devices, "device"));
  }
}

void Runtime::start_kokkos(int node_rank) {
  int const threads = static_cast<int>(threads_);
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
#if !defined(KOKKOS_ENABLE_CUDA) && !defined(KOKKOS_ENABLE_HIP)
  // OpenBLAS counted its CPUs when it was loaded. Started on one core it stays at one thread, whatever OpenMP
  // says.
  openblas_set_num_threads(threads);
#endif

  // Kokkos' warnings concern OMP_PROC_BIND, which OpenMP has read long before, and crowding, which we report.
  int const devices = device_count();
  int const device = devices > 0 ? node_rank % devices : -1;
#if KOKKOS_VERSION >= 30700
  Kokkos::InitializationSettings settings;
  settings.set_num_threads(threads).set_disable_warnings(true);
  if (device >= 0) settings.set_device_id(device);
  Kokkos::initialize(settings);
#else
  Kokkos::InitArguments arguments;
  arguments.num_threads = threads;
  arguments.disable_warnings = true;
  arguments.device_id = device;
  Kokkos::initialize(arguments);
#endif
  owns_kokkos_ = true;
}

Runtime::~Runtime() {
  if (owns_kokkos_) Kokkos::finalize();
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (owns_mpi_ && finalized == 0) MPI_Finalize();
}

int Runtime::failed(std::string const& what) const {
  if (size_ == 1) {
    print_line("error: " + first_line(what));
    return kExitError;
  }
  print_line(fmt::format("error: rank {} of {}: {}", rank_, size_, first_line(what)));
  MPI_Abort(MPI_COMM_WORLD, kExitError);  // the others may wait for this rank for ever
  std::_Exit(kExitError);
}

int Runtime::run(std::function<int()> const& body) {
  try {
    return body();
  } catch (AgreedError const& e) {
    if (rank_ == 0) print_line(fmt::format("error: {}", e.what()));
    if (e.ending() == Ending::abort) abort_together();
    return kExitError;
  } catch (Interrupted const& e) {
    if (rank_ == 0) print_line(fmt::format("stopped: {}", e.what()));
    return kExitInterrupted;
  } catch (Error const& e) {
    int const code = failed(e.what());
    if (e.ending() == Ending::abort) abort_together();
    return code;
  } catch (std::bad_alloc const&) {
    return failed("out of memory; use more nodes, or lower train.micro_batch or data.context");
  } catch (std::exception const& e) {
    std::string const what = e.what();
    // Kokkos 3.4 throws std::runtime_error for this.
    bool const full = what.starts_with("Kokkos failed to allocate memory");
    return failed(full ? "out of memory: " + what : what);
  } catch (...) {
    return failed("unknown error");
  }
}

}  // namespace upit
