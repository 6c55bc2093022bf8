#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles every file of src/kernels with nvcc (C++20, sm_80) against a Kokkos with CUDA; nothing is linked or run.
#
#   tools/check_cuda.sh [options of tools/setup.sh]
set -Eeuo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[[ ! -d /usr/local/cuda/bin ]] || PATH=$PATH:/usr/local/cuda/bin
if ! command -v nvcc >/dev/null; then
  echo "check_cuda: no nvcc found, nothing is compiled"
  exit 0
fi
"$root/tools/setup.sh" --preset cuda "$@" build
echo "check_cuda: $(find "$root/src/kernels" -name '*.cpp' | wc -l) files of src/kernels compile with nvcc $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
