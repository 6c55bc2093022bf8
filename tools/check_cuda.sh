#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles the whole program with nvcc (C++20) against a Kokkos with CUDA and links it with cuBLAS and cuBLASLt: upit,
# and the tests of one process of the rooms whose kernels run on the device. Nothing is run: no device is needed.
#
#   tools/check_cuda.sh [--all] [options of tools/setup.sh]
#
#   --all   every test program, those of several ranks too
set -Eeuo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
targets=(upit test_linalg test_kernels test_model)
if [[ ${1:-} == --all ]]; then
  targets=(all)
  shift
fi
[[ ! -d /usr/local/cuda/bin ]] || PATH=$PATH:/usr/local/cuda/bin
if ! command -v nvcc >/dev/null; then
  echo "check_cuda: no nvcc found, nothing is compiled"
  exit 0
fi
started=$SECONDS
UPIT_TARGETS="${targets[*]}" "$root/tools/setup.sh" --preset cuda "$@" build
objects() { { grep "^build .*\.cpp\.o:" "$root/build/cuda/build.ninja" || true; } | wc -l; }
host=$(grep -c -- '--host-only' "$root/build/cuda/build.ninja" || true)
echo "check_cuda: compiled by nvcc $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'), $(objects) files of which" \
  "$host without Kokkos by the host's compiler; linked, not run, in $((SECONDS - started)) s: ${targets[*]}"
