#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Gives upit a Kokkos: the machine's own, or one built below .deps.
#
#   tools/kokkos.sh [--backend openmp|serial|cuda|hip] [--arch NAME] [--kokkos ROUTE] [--prefix DIR] [--jobs N]
#
# Routes:
#   auto       the first of installed, url, source that gives one (default)
#   installed  one that CMake finds: module, Spack, CMAKE_PREFIX_PATH
#   url        a release tarball: UPIT_KOKKOS_URL and its UPIT_KOKKOS_SHA256
#   source     the distribution's source package: kokkos, else the copy inside trilinos
#   binary     the distribution's library; it has no threads, so only --backend serial takes it
#   modern     the newest binary of Debian's unstable suite with a C++ runtime of its own:
#              to test against the current Kokkos, never chosen by auto
#
# --arch: the device that cuda or hip compiles for: sm_80 (default; newer devices compile its PTX when a program
# starts), sm_90 or another of nvcc's; gfx90a (default), gfx942 or another of hipcc's.
#
# What is built is compiled for this machine's processor and installed into PREFIX/kokkos (openmp),
# kokkos-serial, kokkos-cuda, kokkos-gfx90a (or what --arch says for hip) or kokkos-modern. Run again, it does nothing, unless the options, the
# compiler or the processor have changed. No package host is named here: apt knows the archive, and
# verifies what comes from it (release signature, index hash, file hash).
set -Eeuo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
prefix=$here/../.deps
backend=openmp
arch=
route=auto
jobs=$(nproc)
minimum=3.4

say() { printf 'kokkos: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

while (($#)); do
  case $1 in
    --backend | --arch | --kokkos | --prefix | --jobs)
      (($# > 1)) || die "$1 needs a value"
      case $1 in
        --backend) backend=$2 ;;
        --arch) arch=$2 ;;
        --kokkos) route=$2 ;;
        --prefix) prefix=$2 ;;
        --jobs) jobs=$2 ;;
      esac
      shift 2 ;;
    -h | --help) sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) die "unknown option $1 (see --help)" ;;
  esac
done
case $backend in openmp | serial | cuda | hip) ;; *) die "--backend is $backend; it can be openmp, serial, cuda or hip" ;; esac
case $backend in
  cuda) arch=${arch:-sm_80} ;;
  hip) arch=${arch:-gfx90a} ;;
  *) [[ -z $arch ]] || die "--arch names a device; it goes with --backend cuda or hip" ;;
esac
case $route in auto | installed | url | source | binary | modern) ;; *) die "--kokkos is $route; see --help for the routes" ;; esac
[[ $route != modern || $backend == openmp ]] || die "--kokkos modern comes with the backend openmp only"
[[ $route != binary || $backend == serial ]] || die "the distribution's Kokkos has no threads; --kokkos binary goes with --backend serial"

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
destination=$prefix/kokkos
[[ $backend == openmp ]] || destination+=-${backend/hip/$arch}
[[ $route != modern ]] || destination=$prefix/kokkos-modern
compiler=${CXX:-c++}
command -v "$compiler" >/dev/null || die "no C++ compiler found ($compiler); tools/setup.sh installs one"
[[ ! -d /usr/local/cuda/bin ]] || PATH=$PATH:/usr/local/cuda/bin

exec 9>"$prefix/.lock" # two set-ups of one checkout wait for each other
flock 9
work=$(mktemp -d "${TMPDIR:-/tmp}/upit-kokkos.XXXXXX")
trap 'rm -rf "$work"' EXIT

quietly() { # the end of a command's output is shown only if it fails
  "$@" >"$work/step.log" 2>&1 || { tail -n 40 "$work/step.log" >&2; return 1; }
}

# ---- what is there already

# What -march=native means here: an installation made for another processor must not be used.
# Compiler caches hash the file, not the flag.
processor() { "$compiler" -march=native -E -v -x c++ /dev/null 2>&1 | grep -E 'cc1plus|-cc1 '; }
processor >"$work/processor"
cmp -s "$work/processor" "$prefix/processor" || cp "$work/processor" "$prefix/processor"

stamp=$destination/upit-stamp
key() {
  echo "format 1, backend $backend, -march=native, C++20"
  echo "compiler $("$compiler" --version | sed -n 1p)"
  [[ -z $arch ]] || echo "device $arch"
  [[ $backend != hip ]] || echo "hipcc $(hipcc --version 2>/dev/null | sed -n 's/^HIP version: //p')"
  [[ $backend != cuda ]] || echo "nvcc $(nvcc --version | sed -n 's/.*release //p')"
  [[ -z ${UPIT_KOKKOS_SHA256:-} ]] || echo "sha256 $UPIT_KOKKOS_SHA256"
  echo "processor $(sha256sum <"$prefix/processor" | cut -c 1-16)"
}
[[ $backend != cuda ]] || command -v nvcc >/dev/null || die "no nvcc found; load the CUDA module, or put nvcc on PATH"
[[ $backend != hip ]] || command -v hipcc >/dev/null || die "no hipcc found; load the ROCm module, or install hipcc (Debian)"
key >"$work/key"
up_to_date() { # the stamp is the key and, last, the route that was taken
  [[ -f $stamp ]] || return 1
  sed '$d' "$stamp" | cmp -s - "$work/key" || return 1
  [[ $route == auto || $(tail -n 1 "$stamp") == "route $route" ]]
}
if [[ $route != installed && $route != binary ]] && up_to_date; then
  exit 0
fi

find_installed() { # prints version, devices and place of a usable Kokkos that CMake finds
  local found
  mkdir -p "$work/probe"
  cat >"$work/probe/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.22)
project(probe LANGUAGES CXX)
set(CMAKE_CXX_EXTENSIONS OFF)
find_package(Kokkos $minimum QUIET)
message("FOUND \${Kokkos_VERSION} (\${Kokkos_DEVICES}) in \${Kokkos_DIR}")
CMAKE
  found=$(cmake -S "$work/probe" -B "$work/probe/build" 2>&1 | sed -n 's/^FOUND //p')
  [[ $found == [0-9]* ]] || return 1
  case $backend in
    openmp) [[ $found == *OPENMP* ]] || { say "found $found: without OpenMP, so it is not used"; return 1; } ;;
    serial) [[ $found != *OPENMP* ]] || { say "found $found: with threads, so it is not used"; return 1; } ;;
    hip) [[ $found == *HIP* ]] || { say "found $found: without HIP, so it is not used"; return 1; } ;;
    cuda) [[ $found == *CUDA* ]] || { say "found $found: without CUDA, so it is not used"; return 1; } ;;
  esac
  say "using the installed Kokkos $found"
}

# ---- a private view of one suite of the distribution's archive; the system's own lists stay as they are

archive() { # the address that apt itself uses
  apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" && !found++ { print $4 }'
}
in_suite() { # in_suite SUITE apt-get|apt-cache ARGUMENTS...
  local suite=$1 tool=$2
  shift 2
  "$tool" -o Dir::Etc::SourceList="$work/apt/$suite/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State::Lists="$work/apt/$suite/lists" -o Dir::Cache="$work/apt/$suite/cache" \
    -o Acquire::Languages=none -o APT::Sandbox::User=root -o Acquire::AllowInsecureRepositories=false \
    -o Acquire::Check-Valid-Until=false "$@" # a mirror may lag: what it serves is signed all the same
}
open_suite() { # open_suite SUITE deb|deb-src: false where the archive has no such suite
  local suite=$1 kind=$2 address dir=$work/apt/$1
  [[ ! -e $dir/open ]] || return 0
  address=$(archive)
  if [[ -z $address && $(id -u) == 0 ]]; then # a bare container has no lists yet
    quietly apt-get update || true
    address=$(archive)
  fi
  [[ -n $address ]] || { say "apt knows no Debian archive on this machine"; return 1; }
  mkdir -p "$dir"/lists/partial "$dir"/cache/archives/partial
  echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $address $suite main" >"$dir/sources.list"
  in_suite "$suite" apt-get update >"$work/step.log" 2>&1 || return 1
  touch "$dir/open"
}

# ---- sources

keep_source() { # keep_source TARBALL ORIGIN [MEMBER]: unpacks Kokkos into PREFIX/source/kokkos
  local from=$work/unpacked/kokkos version
  rm -rf "$work/unpacked"
  mkdir -p "$from"
  if (($# > 2)); then
    tar -xf "$1" -C "$work/unpacked" --strip-components=1 --wildcards "*/$3" && from=$work/unpacked/$3
  else
    tar -xf "$1" -C "$from" --strip-components=1
  fi || return 1
  version=$(source_version "$from")
  [[ -n $version && $(printf '%s\n' $minimum "$version" | sort -V | head -n 1) == "$minimum" ]] ||
    { say "$2 holds Kokkos '$version'; $minimum or newer is needed"; return 1; }
  rm -rf "$prefix/source/kokkos"
  mkdir -p "$prefix/source"
  mv "$from" "$prefix/source/kokkos"
  echo "$2" >"$prefix/source/kokkos.origin"
}
source_version() {
  local part
  for part in MAJOR MINOR PATCH; do
    sed -n "s/^ *set *(Kokkos_VERSION_$part \([0-9]*\)).*/\1/Ip" "$1/CMakeLists.txt" | head -n 1
  done | paste -sd.
}
have_source() { [[ -f $prefix/source/kokkos/CMakeLists.txt && $(cat "$prefix/source/kokkos.origin" 2>/dev/null) == $1 ]]; }

source_from_url() {
  local sha=${UPIT_KOKKOS_SHA256:-} file=$work/kokkos.tar.gz
  [[ -n $sha ]] || die "UPIT_KOKKOS_URL is set without UPIT_KOKKOS_SHA256, the tarball's checksum"
  have_source "sha256 $sha" && return 0
  # CMake brings a downloader: neither curl nor wget is in a bare system.
  printf 'file(DOWNLOAD "%s" "%s" STATUS status)\nif(NOT status MATCHES "^0;")\n  message(FATAL_ERROR "${status}")\nendif()\n' \
    "$UPIT_KOKKOS_URL" "$file" >"$work/download.cmake"
  quietly cmake -P "$work/download.cmake" || die "UPIT_KOKKOS_URL cannot be downloaded: $UPIT_KOKKOS_URL"
  [[ $(sha256sum <"$file") == "$sha "* ]] ||
    die "UPIT_KOKKOS_URL has another checksum than UPIT_KOKKOS_SHA256: $(sha256sum <"$file" | cut -d' ' -f1)"
  keep_source "$file" "sha256 $sha" || die "UPIT_KOKKOS_URL is no Kokkos source tarball"
}

source_from_archive() {
  local suite package tarball release
  have_source 'archive *' && return 0
  command -v apt-get >/dev/null || { say "no apt on this machine"; return 1; }
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
  # The machine's own release first: what it lists, it serves. A mirror may list unstable and not hold it.
  for suite in "$release" stable unstable; do
    open_suite "$suite" deb-src || { say "the archive has no sources of $suite"; continue; }
    for package in kokkos trilinos; do
      in_suite "$suite" apt-cache showsrc --only-source $package 2>/dev/null | grep '^Package:' >/dev/null || continue
      mkdir -p "$work/download"
      rm -f "$work"/download/*
      (cd "$work/download" && in_suite "$suite" apt-get -o Acquire::Retries=0 source --download-only --tar-only --only-source $package) \
        >"$work/step.log" 2>&1 || { say "$package of $suite is listed but cannot be downloaded"; continue; }
      tarball=$(find "$work/download" -name "${package}_*.orig.tar.*" ! -name '*.asc' | head -n 1)
      [[ -n $tarball ]] || continue
      if [[ $package == trilinos ]]; then
        keep_source "$tarball" "archive $(basename "$tarball")" packages/kokkos && return 0
      else
        keep_source "$tarball" "archive $(basename "$tarball")" && return 0
      fi
    done
  done
  return 1
}

# ---- building

# Kokkos names devices in its own words, and 3.4 knows fewer than the compilers do: there the option of the nearest
# one is taken, and its flag replaced.
arch_option() {
  case $major-$arch in
    3-sm_*) sed -i "s/AMPERE80 *sm_80/AMPERE80 $arch/" "$source/cmake/kokkos_arch.cmake" && echo Kokkos_ARCH_AMPERE80 ;;
    3-gfx*) sed -i "s/VEGA908 *gfx908/VEGA908 $arch/" "$source/cmake/kokkos_arch.cmake" && echo Kokkos_ARCH_VEGA908 ;;
    *-sm_80) echo Kokkos_ARCH_AMPERE80 ;;
    *-sm_90) echo Kokkos_ARCH_HOPPER90 ;;
    *-gfx*) echo "Kokkos_ARCH_AMD_${arch^^}" ;;
    *) die "which option of Kokkos $version stands for $arch is not known here; build it by hand and set CMAKE_PREFIX_PATH" ;;
  esac
}

build() {
  local source=$work/source version major options device
  cp -r "$prefix/source/kokkos" "$source"
  version=$(source_version "$source")
  major=${version%%.*}
  options=(-DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$destination" -DCMAKE_POSITION_INDEPENDENT_CODE=ON
    -DCMAKE_CXX_EXTENSIONS=OFF -DKokkos_ENABLE_SERIAL=ON)
  if ((major > 3)); then
    options+=(-DCMAKE_CXX_STANDARD=20)
  else
    options+=(-DKokkos_CXX_STANDARD=20)
  fi
  [[ -z $arch ]] || device=$(arch_option) || return 1
  [[ $backend == serial || $backend == hip ]] || options+=(-DKokkos_ENABLE_OPENMP=ON)
  if [[ $backend == cuda ]]; then
    ((major > 3)) || [[ -f $source/upit-patched ]] || quietly patch -d "$source" -p1 <"$here/patches/kokkos-3.4-cuda.patch" || return 1
    mkdir -p "$destination/bin"
    cp "$source/bin/nvcc_wrapper" "$destination/bin/" # CMake remembers this compiler, so it lives where it stays
    options+=(-DKokkos_ENABLE_CUDA=ON -DKokkos_ENABLE_CUDA_LAMBDA=ON "-D$device=ON"
      -DCMAKE_CXX_COMPILER="$destination/bin/nvcc_wrapper" -DCMAKE_CXX_FLAGS=-march=native)
  elif [[ $backend == hip ]]; then
    # clang 15 crashes on <regex> in C++20 HIP files, which Kokkos 3.4 includes: its own files are C++17.
    ((major > 3)) || options+=(-DKokkos_CXX_STANDARD=17)
    options+=(-DKokkos_ENABLE_HIP=ON "-D$device=ON" -DCMAKE_CXX_COMPILER=hipcc -DCMAKE_CXX_FLAGS=-march=native)
  else
    options+=(-DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS=-march=native) # Kokkos_ARCH_NATIVE came with 4.0
  fi
  ! command -v ninja >/dev/null || options+=(-G Ninja)
  say "building Kokkos $version for $backend with $jobs jobs (from $(cat "$prefix/source/kokkos.origin"))"
  quietly cmake -S "$source" -B "$work/build" "${options[@]}" && quietly cmake --build "$work/build" -j "$jobs" &&
    quietly cmake --install "$work/build"
}

# A pre-built library of the unstable suite wants that suite's C and C++ libraries; both are unpacked side by
# side, and a toolchain file links programs with that loader.
unpack_modern() {
  local library package lib runtime archive loader
  open_suite unstable deb || { say "the archive has no unstable suite"; return 1; }
  library=$(in_suite unstable apt-cache depends libkokkos-dev 2>/dev/null | sed -n 's/.*Depends: \(libkokkos[0-9.]*\)$/\1/p')
  [[ -n $library ]] || { say "the unstable suite has no libkokkos-dev"; return 1; }
  mkdir -p "$work/debs"
  (cd "$work/debs" && in_suite unstable apt-get download libkokkos-dev "$library" libc6 libstdc++6 libgcc-s1 libgomp1) \
    >"$work/step.log" 2>&1 || { tail -n 5 "$work/step.log" >&2; return 1; }
  mkdir -p "$destination/runtime"
  for package in "$work"/debs/*.deb; do
    case ${package##*/} in
      libkokkos*) dpkg-deb -x "$package" "$destination" ;;
      *) dpkg-deb -x "$package" "$destination/runtime" ;;
    esac
  done
  lib=$(dirname "$(find "$destination/usr/lib" -name libkokkoscore.so | head -n 1)")
  # The package leaves out its header-only libraries' empty archives and names an absolute include directory.
  for archive in $(grep -ohE 'lib[a-z]+\.a' "$lib"/cmake/Kokkos/KokkosTargets-*.cmake | sort -u); do
    [[ -e $lib/$archive ]] || ar rcs "$lib/$archive"
  done
  sed -i 's|"/usr/include/kokkos"|"${_IMPORT_PREFIX}/include/kokkos"|' "$lib/cmake/Kokkos/KokkosTargets.cmake"
  runtime=$destination/runtime/usr/lib/${lib##*/}
  loader=$(find "$runtime" -name 'ld-linux*.so.*' | head -n 1)
  cat >"$destination/toolchain.cmake" <<CMAKE
# Written by tools/kokkos.sh: programs run with the C and C++ libraries that this Kokkos was built with.
list(PREPEND CMAKE_PREFIX_PATH "$destination/usr")
set(CMAKE_EXE_LINKER_FLAGS_INIT
    "-Wl,--dynamic-linker=$loader -Wl,--disable-new-dtags -Wl,-rpath,$runtime -Wl,--allow-shlib-undefined")
CMAKE
  say "unpacked $library; configure with --toolchain $destination/toolchain.cmake"
}

# ---- the routes

finish() { # finish ROUTE
  { cat "$work/key"; echo "route $1"; } >"$stamp"
  say "ready in $destination after $SECONDS s"
  exit 0
}

rm -rf "$destination" # out of date, or not what is asked for: it must not shadow what follows
if [[ $route == auto || $route == installed ]]; then
  find_installed && exit 0
  [[ $route == auto ]] || die "CMake finds no Kokkos $minimum or newer for $backend; load its module, or set CMAKE_PREFIX_PATH"
fi
if [[ $route == url || ($route == auto && -n ${UPIT_KOKKOS_URL:-}) ]]; then
  [[ -n ${UPIT_KOKKOS_URL:-} ]] || die "--kokkos url needs UPIT_KOKKOS_URL and UPIT_KOKKOS_SHA256"
  source_from_url
  build || die "Kokkos from UPIT_KOKKOS_URL does not build (its messages are above)"
  finish url
fi
case $route in
  auto | source)
    source_from_archive || die "the distribution's archive gives no Kokkos source; set UPIT_KOKKOS_URL and UPIT_KOKKOS_SHA256, or load a Kokkos module"
    build || die "Kokkos does not build (its messages are above)"
    finish source ;;
  binary)
    quietly apt-get install -y --no-install-recommends libtrilinos-kokkos-dev || die "libtrilinos-kokkos-dev cannot be installed"
    find_installed || die "libtrilinos-kokkos-dev is installed, but CMake does not find its Kokkos"
    exit 0 ;;
  modern)
    unpack_modern || die "no current Kokkos could be fetched"
    finish modern ;;
esac
