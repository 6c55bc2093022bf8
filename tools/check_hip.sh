#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles upit with hipcc for AMD devices (C++20) against a Kokkos with HIP, and links what can be linked. Nothing is
# run: no device is needed. Not part of CI, run before an issue closes.
#
#   tools/check_hip.sh [--preset gfx90a|gfx942] [options of tools/setup.sh]
#
# With hipBLAS (a ROCm installation) everything is built. Debian 12 has hipcc 5.2 for gfx90a and no hipBLAS: there all
# files but one are compiled, the programs that need no products are linked, and that one file, src/linalg/gemm_hipblas.cpp,
# is compiled against the headers of the archive's stable suite where apt can fetch them. What is left out is said.
set -Eeuo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
preset=gfx90a
if [[ ${1:-} == --preset ]]; then
  preset=${2:?--preset needs a value}
  shift 2
fi
say() { printf 'check_hip: %s\n' "$*"; }
"$root/tools/setup.sh" --preset "$preset" "$@" install # packages, hipcc among them, and Kokkos

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo 'int main() { return 0; }' >"$work/empty.cpp"
if ! hipcc --offload-arch="$preset" -c "$work/empty.cpp" -o "$work/empty.o" >"$work/log" 2>&1; then
  say "this hipcc does not know $preset ($(grep -m 1 -i error "$work/log" | cut -c 1-80)); nothing is compiled"
  exit 1
fi

if [[ -n $(find /opt/rocm*/lib /usr/lib -name 'libhipblas.so' 2>/dev/null | head -n 1) ]]; then
  "$root/tools/setup.sh" --preset "$preset" "$@" build
  say "everything compiled for $preset and linked with hipBLAS; nothing was run"
  exit 0
fi

UPIT_OPTIONS=-DUPIT_HIPBLAS=OFF "$root/tools/setup.sh" --preset "$preset" "$@" build
linked=$(cd "$root/build/$preset" && find . -name 'test_*' -type f -perm -u+x | sed 's|.*/||' | sort | paste -sd' ')
say "there is no hipBLAS on this machine: upit itself and the tests of linalg, model, train and upcycle were compiled" \
  "(their sources, not their tests) and not linked"
say "linked for $preset, not run: $linked"

# The door to hipBLAS, against headers alone.
headers=$work/headers
address=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 == "main" && !found++ { print $4 }')
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$headers"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $address stable main" >"$work/apt/sources.list"
options=(-o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o Acquire::Languages=none
  -o APT::Sandbox::User=root -o Acquire::AllowInsecureRepositories=false -o Acquire::Check-Valid-Until=false)
if [[ -n $address ]] && apt-get "${options[@]}" update >"$work/log" 2>&1 &&
  (cd "$work" && apt-get "${options[@]}" download libhipblas-dev >>"$work/log" 2>&1); then
  dpkg-deb -x "$work"/libhipblas-dev_*.deb "$headers"
  version=$(basename "$work"/libhipblas-dev_*.deb | cut -d_ -f2)
  command=$(cd "$root/build/$preset" && ninja -t commands libupit_linalg.a | grep 'gemm_device\.cpp\.o' | head -n 1)
  command=${command//gemm_device/gemm_hipblas}
  (cd "$root/build/$preset" && eval "$command -isystem $headers/usr/include")
  say "src/linalg/gemm_hipblas.cpp compiles against the headers of hipBLAS $version; it was not linked"
else
  say "no headers of hipBLAS could be fetched: src/linalg/gemm_hipblas.cpp was not compiled"
fi
