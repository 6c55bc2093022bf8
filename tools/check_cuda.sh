#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles the whole program with nvcc (C++20) against a Kokkos with CUDA and links it with cuBLAS: upit, and the tests
# of one process of the rooms whose kernels run on the device. Nothing is run: no device is needed.
#
#   tools/check_cuda.sh [--program | --all] [options of tools/setup.sh]
#
#   --program  upit alone, which .ci/run has the time for
#   --all      every test program, those of several ranks too
set -Eeuo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
targets=(upit test_linalg test_kernels test_model)
case ${1:-} in
  --program)
    targets=(upit)
    shift
    ;;
  --all)
    targets=(all)
    shift
    ;;
esac
[[ ! -d /usr/local/cuda/bin ]] || PATH=$PATH:/usr/local/cuda/bin
if ! command -v nvcc >/dev/null; then
  echo "check_cuda: no nvcc found, nothing is compiled"
  exit 0
fi
started=$SECONDS
UPIT_TARGETS="${targets[*]}" "$root/tools/setup.sh" --preset cuda "$@" build
echo "check_cuda: nvcc $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p') compiled and linked, not run, in" \
  "$((SECONDS - started)) s: ${targets[*]}"
