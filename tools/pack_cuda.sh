#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Takes upit to a machine with an NVIDIA device and a CUDA toolkit, and to nothing else: no packages, no network.
#
#   tools/pack_cuda.sh pack [FILE]         here: writes the archive (default: build/upit-cuda.tar.gz, 64 MiB at most)
#   tools/pack_cuda.sh run [STEP...]       there, in the unpacked directory, as root: build test decks bench (default: all)
#
# The archive holds the sources of the last commit, the patched source of Kokkos, and the headers and libraries
# of Debian's packages that upit needs (MPI, HDF5, fmt, ...). It is made on a Debian 12 that tools/setup.sh has set up.
#
# There: x86-64, root, glibc 2.36 or newer, CUDA 12 or newer with nvcc, g++ 11 or newer that this nvcc accepts, CMake
# 3.22, make or ninja. `run` puts those files below /usr that are not there yet and leaves the others as they are.
# Without a device it builds and links, says that nothing was run, and ends with code 2 (`run build` alone: 0).
#
#   UPIT_ARCH   device (default: what nvidia-smi says, else sm_90)
#   OUT         folder for logs and results (default: results)
#   JOBS        compile jobs (default: all cores)
set -Eeuo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf 'pack_cuda: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

packages=(
  libopenmpi-dev libopenmpi3 openmpi-bin openmpi-common
  libhdf5-openmpi-dev libhdf5-openmpi-103-1 libhdf5-openmpi-cpp-103-1 libhdf5-openmpi-hl-100 libhdf5-openmpi-fortran-102
  libtoml11-dev nlohmann-json3-dev libcli11-dev libfmt-dev libfmt9 libsentencepiece-dev libsentencepiece0
  librandom123-dev libxxhash-dev zlib1g-dev libgtest-dev libgmock-dev
  libaec-dev libcurl4-openssl-dev libssl-dev # named on the line that links HDF5
)

pack() {
  local file=${1:-$root/build/upit-cuda.tar.gz} work tree package library limit=$((64 << 20)) size
  command -v dpkg-query >/dev/null || die "the libraries come from Debian's packages; there is no dpkg here"
  work=$(mktemp -d)
  trap "rm -rf '$work'" EXIT
  tree=$work/upit-cuda
  mkdir -p "$tree/.deps/source" "$tree/.pack"
  git -C "$root" archive HEAD | tar -x -C "$tree"
  git -C "$root" rev-parse --short=12 HEAD >"$tree/.pack/commit"
  [[ -z $(git -C "$root" status --porcelain --untracked-files=no) ]] || say "changes that are not committed stay behind"

  [[ -f $root/.deps/source/kokkos/CMakeLists.txt ]] || die "no source of Kokkos below .deps; run tools/setup.sh first"
  cp -r "$root/.deps/source/." "$tree/.deps/source/"
  patch -s -d "$tree/.deps/source/kokkos" -p1 <"$root/tools/patches/kokkos-3.4-cuda.patch"
  touch "$tree/.deps/source/kokkos/upit-patched"
  rm -rf "$tree"/.deps/source/kokkos/{core/unit_test,core/perf_test,containers/unit_tests,containers/performance_tests,algorithms/unit_tests,benchmarks,doc} # what its CMake asks for stays: example

  # The files of the packages, then the libraries that these load, whatever package they are of.
  for package in "${packages[@]}"; do
    dpkg-query -L "$package" 2>/dev/null || true
  done | grep -vE '/share/(doc|man|info|lintian|bug|locale)/|/python|\.mod$|/vapi/|\.a$' | sort -u >"$work/listed"
  find /usr/lib -name 'libgtest*.a' -o -name 'libgmock*.a' >>"$work/listed" # these two are archives only
  while read -r library; do
    [[ -f $library && $library == *.so* ]] || continue
    ldd "$library" 2>/dev/null | awk '$3 ~ /^\// { print $3 }' || true
  done <"$work/listed" | sort -u | grep -vE '/(libc|libm|libdl|librt|libpthread|libutil|libresolv|libgcc_s|libstdc\+\+|libgomp|libgfortran|libquadmath|ld-linux.*)\.so' >"$work/loaded" || true
  { cat "$work/listed"; cat "$work/loaded"; sed 'p' "$work/loaded" | xargs -r -n 1 readlink -f; } | sort -u |
    while read -r library; do
      # alternatives and merged directories are links: what they name travels under the name that is looked for
      if [[ -f $library ]]; then echo "$library"; fi
    done >"$work/files"
  tar -c --files-from="$work/files" --dereference --hard-dereference --absolute-names --transform='s|^/lib/|/usr/lib/|' \
    --transform='s|^/||' 2>/dev/null | tar -x -C "$tree/.pack"
  for library in mpirun mpiexec mpicc mpicxx mpic++ mpiCC orterun opal_wrapper h5pcc.openmpi h5pcc; do # behind alternatives
    package=$(command -v $library) || continue
    mkdir -p "$tree/.pack/usr/bin"
    cp -nL "$package" "$tree/.pack/usr/bin/$library"
  done
  mkdir -p "$tree/.pack/usr/lib/$(uname -m)-linux-gnu"
  for package in /usr/lib/*-linux-gnu/libmpi*.so /usr/lib/*-linux-gnu/libopen-*.so; do
    [[ ! -e $package ]] || cp -nL "$package" "$tree/.pack$package"
  done
  mkdir -p "$(dirname "$file")"
  tar -c -C "$work" upit-cuda | gzip -9 >"$file"
  size=$(stat -c %s "$file")
  ((size <= limit)) || die "$file has $((size >> 20)) MiB; 64 are allowed"
  say "$file: $((size >> 20)) MiB of commit $(<"$tree/.pack/commit")"
}

# ---- on the machine with the device

timed() { # timed NAME COMMAND...: log in OUT/NAME.log, one line in OUT/summary.txt
  local name=$1 started=$SECONDS status=0
  shift
  "$@" >"$out/$name.log" 2>&1 </dev/null || status=$?
  printf '%-24s %s after %d s\n' "$name" "$( ((status == 0)) && echo passed || echo "FAILED ($status)")" \
    $((SECONDS - started)) | tee -a "$out/summary.txt"
  ((status == 0)) || tail -n 20 "$out/$name.log"
  return "$status"
}

run() {
  local steps=("$@") step arch deck names device=0 failed=0
  ((${#steps[@]})) || steps=(build test decks bench)
  for step in "${steps[@]}"; do
    [[ $step =~ ^(build|test|decks|bench)$ ]] || die "unknown step $step; it can be build, test, decks or bench"
  done
  out=$(mkdir -p "${OUT:-$root/results}" && cd "${OUT:-$root/results}" && pwd)
  [[ -d $root/.pack/usr ]] || die "this directory is not an unpacked archive"
  [[ $(id -u) == 0 ]] || die "libraries go below /usr: run it as root, on a machine that is thrown away afterwards"
  [[ ! -d /usr/local/cuda/bin ]] || export PATH=$PATH:/usr/local/cuda/bin
  for step in nvcc g++ cmake; do command -v $step >/dev/null || die "there is no $step on this machine"; done
  cp -rn "$root/.pack/usr/." /usr/
  ldconfig 2>/dev/null # links of libraries came as copies
  arch=${UPIT_ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d . || true)}
  arch=sm_${arch#sm_}
  [[ $arch != sm_ ]] || arch=sm_90
  if names=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null) && [[ -n $names ]]; then
    device=1
  fi
  { echo "commit $(<"$root/.pack/commit"), $arch"; nvcc --version | tail -n 2; g++ --version | head -n 1; cmake --version | head -n 1
    ((device == 1)) && echo "$names" || echo "no NVIDIA device: it can be built here, not run"; } | tee "$out/summary.txt"
  cd "$root"
  local setup=(tools/setup.sh --preset cuda --arch "$arch" --no-apt --jobs "${JOBS:-$(nproc)}")
  for step in "${steps[@]}"; do
    if [[ $step != build && $device == 0 ]]; then
      echo "nothing was run: there is no NVIDIA device on this machine (nvidia-smi shows none)" | tee -a "$out/summary.txt"
      return 2
    fi
    case $step in
      build) timed build "${setup[@]}" build || return 1 ;; # nothing after it could run
      test) timed test "${setup[@]}" --jobs 2 test || failed=1 ;;
      decks)
        for deck in lora8e ffn4e; do
          timed "$deck" "${setup[@]}" --ranks 1 run "inputs/$deck.toml" "run.directory=$out/$deck" parallel.expert=1 ||
            failed=1
        done ;;
      bench)
        timed bench "${setup[@]}" --ranks 1 run bench --json "$out/bench.json" || failed=1
        # The shapes that docs/gpu.md aims at: d 2,048, 16 layers, sequences of 2,048 tokens, 16 bits.
        timed bench_bf16 "${setup[@]}" --ranks 1 run bench --precision bf16 --cases dense,ffn_moe --width 2048 --layers 16 \
          --heads 16 --kv-heads 16 --ffn 5504 --sequence 2048 --profile --json "$out/bench_bf16.json" || failed=1
        ;;
    esac
  done
  return "$failed"
}

action=${1:-}
(($# == 0)) || shift
case $action in
  pack) pack "$@" ;;
  run) run "$@" ;;
  -h | --help) sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0" ;;
  *) die "unknown action ${action:-(none)}; it can be pack or run (see --help)" ;;
esac
