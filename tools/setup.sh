#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sets up a machine for upit, builds it, runs it, tests it. Done once, each step does nothing the next time.
#
#   tools/setup.sh [OPTIONS]                    install what upit needs
#   tools/setup.sh [OPTIONS] build              ... and build it
#   tools/setup.sh [OPTIONS] test [CTEST...]    ... and run the tests
#   tools/setup.sh [OPTIONS] run ARGUMENTS...   ... and run `mpirun -n RANKS upit ARGUMENTS...`
#
#   --preset NAME    openmp (default), serial, cuda, gfx90a, gfx942 or modern: see CMakePresets.json
#   --arch NAME      device of the preset cuda: sm_80 (default), sm_90, ...: see tools/kokkos.sh --help
#   --ranks N        MPI ranks of `run` (default 2)
#   --jobs N         compile jobs (default: all cores)
#   --kokkos ROUTE   where Kokkos comes from: see tools/kokkos.sh --help
#   --prefix DIR     where a Kokkos of our own goes (default: .deps in the checkout)
#   --no-apt         leave the system's packages alone
#
# A fresh Debian 12 needs root once, for its packages. A cluster with Kokkos, MPI and HDF5 in modules needs
# none of this: cmake --preset openmp && cmake --build --preset openmp.
set -Eeuo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=$root/.deps
preset=openmp
arch=
ranks=2
jobs=$(nproc)
route=auto
apt=1

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

while (($#)); do
  case $1 in
    --preset | --arch | --ranks | --jobs | --kokkos | --prefix)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --preset) preset=$2 ;;
        --arch) arch=$2 ;;
        --ranks) ranks=$2 ;;
        --jobs) jobs=$2 ;;
        --kokkos) route=$2 ;;
        --prefix) prefix=$2 ;;
      esac
      shift 2 ;;
    --no-apt) apt=0; shift ;;
    -h | --help) sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) break ;;
  esac
done
action=${1:-install}
(($# == 0)) || shift
case $action in install | build | test | run) ;; *) die "unknown action $action; it can be build, test or run (see --help)" ;; esac
case $preset in
  openmp | serial | cuda | gfx90a | gfx942 | modern) ;;
  *) die "--preset is $preset; it can be openmp, serial, cuda, gfx90a, gfx942 or modern" ;;
esac
[[ -z $arch || $preset == cuda ]] || die "--arch goes with --preset cuda; presets gfx90a and gfx942 name their devices"
[[ $ranks =~ ^[1-9][0-9]*$ && $jobs =~ ^[1-9][0-9]*$ ]] || die "--ranks and --jobs take whole numbers from 1"
[[ $action != run || $# -gt 0 ]] || die "run needs what to run, for instance: tools/setup.sh run inputs/lora8e.toml"

packages=(
  build-essential cmake ninja-build ccache
  libopenmpi-dev openmpi-bin libhdf5-openmpi-dev
  libopenblas-openmp-dev libdnnl-dev
  libtoml11-dev nlohmann-json3-dev libcli11-dev libfmt-dev
  libsentencepiece-dev librandom123-dev libxxhash-dev zlib1g-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)

[[ $preset != gfx* ]] || packages+=(hipcc)
[[ ! -d /usr/local/cuda/bin ]] || PATH=$PATH:/usr/local/cuda/bin

install_packages() {
  local present missing=() package
  if ! command -v apt-get >/dev/null; then
    say "no apt here: packages are taken as they are"
    return
  fi
  present=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^installed //p' || true)
  for package in "${packages[@]}"; do
    grep -qxF "$package" <<<"$present" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  [[ $(id -u) == 0 ]] ||
    die "missing packages; as root: apt-get install ${missing[*]} (or load modules and pass --no-apt)"
  say "installing ${#missing[@]} packages: ${missing[*]}"
  local log
  log=$(mktemp)
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null || { tail -n 30 "$log" >&2; rm -f "$log"; die "apt-get cannot install them (its messages are above)"; }
  rm -f "$log"
}

install_kokkos() {
  local backend=$preset
  local device=()
  [[ $preset != modern ]] || { backend=openmp; route=modern; }
  [[ $preset != gfx* ]] || { backend=hip; arch=$preset; }
  [[ -z $arch ]] || device=(--arch "$arch")
  "$root/tools/kokkos.sh" --backend "$backend" "${device[@]}" --kokkos "$route" --prefix "$prefix" --jobs "$jobs"
  kokkos=$(cd "$prefix" && pwd)/kokkos
  [[ $preset == openmp ]] || kokkos+=-$preset
}

build() {
  local directory=$root/build/$preset configured options=() more=()
  local mark=$directory/.upit-setup
  # A Kokkos of our own says what it was built with and for; a build made with another one starts afresh.
  configured=$(cat "$kokkos/upit-stamp" 2>/dev/null || echo "installed Kokkos"; echo "in $kokkos"; sha256sum <"$root/CMakePresets.json"
    [[ -z ${UPIT_OPTIONS:-} ]] || echo "with $UPIT_OPTIONS")
  if [[ -f $mark && $(<"$mark") != "$configured" ]]; then
    say "build/$preset was made with another Kokkos, preset, processor or UPIT_OPTIONS: starting afresh"
    rm -rf "$directory"
  fi
  export CCACHE_EXTRAFILES=$prefix/processor # -march=native means what this file says
  if [[ ! -f $mark || ! -f $directory/CMakeCache.txt ]]; then
    if [[ ! -f $directory/CMakeCache.txt ]]; then
      ! command -v ninja >/dev/null || export CMAKE_GENERATOR=Ninja
      # nvcc_wrapper compiles one file in several passes, which ccache does not follow
      ! command -v ccache >/dev/null || [[ $preset == cuda ]] || export CMAKE_CXX_COMPILER_LAUNCHER=ccache
    fi
    [[ $prefix -ef $root/.deps || ! -d $kokkos ]] || options+=("-DCMAKE_PREFIX_PATH=$kokkos")
    [[ ${#options[@]} == 0 || $preset != modern ]] || options=(--toolchain "$kokkos/toolchain.cmake")
    # UPIT_OPTIONS: more options for CMake, for the checks beside this script
    [[ ${#options[@]} == 0 || $preset != cuda ]] || options+=("-DCMAKE_CXX_COMPILER=$kokkos/bin/nvcc_wrapper")
    local log
    log=$(mktemp)
    [[ -z ${UPIT_OPTIONS:-} ]] || read -ra more <<<"$UPIT_OPTIONS"
    (cd "$root" && cmake --preset "$preset" "${options[@]}" "${more[@]}") >"$log" 2>&1 ||
      { cat "$log" >&2; rm -f "$log"; die "configuring the preset $preset failed (see above)"; }
    rm -f "$log"
    echo "$configured" >"$mark"
  fi
  local all=() # compilers of devices take minutes: they tell every file that does not compile
  [[ $preset != cuda && $preset != gfx* || ! -f $directory/build.ninja ]] || all=(-- -k 0)
  # UPIT_TARGETS: what to build, for the checks beside this script; nothing: everything
  local targets=()
  [[ -z ${UPIT_TARGETS:-} ]] || read -ra targets <<<"$UPIT_TARGETS"
  (cd "$root" && cmake --build --preset "$preset" -j "$jobs" "${targets[@]/#/--target=}" "${all[@]}")
}

# Open MPI refuses root, and refuses more ranks than cores, unless told; and it binds a rank to one core, which
# would leave the rank's threads fighting for it. Nothing that the caller has set is changed.
launcher_environment() {
  local cores
  if [[ $(id -u) == 0 ]]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  cores=$(lscpu -p=core,socket 2>/dev/null | grep -v '^#' | sort -u | wc -l)
  ((cores > 0 && cores < $(nproc))) || cores=$(nproc)
  ((ranks <= cores)) || export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
  export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
  export OMP_PROC_BIND=${OMP_PROC_BIND:-false}
}

((apt == 0)) || install_packages
install_kokkos
case $action in
  install) say "upit's dependencies are there; next: tools/setup.sh run inputs/lora8e.toml" ;;
  build) build ;;
  test)
    build >&2
    cd "$root"
    ctest --preset "$preset" -j "$jobs" "$@" ;;
  run)
    build >&2
    launcher_environment
    exec mpirun -n "$ranks" "$root/build/$preset/upit" "$@" ;;
esac
