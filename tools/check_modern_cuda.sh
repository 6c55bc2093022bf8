#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles the files that launch kernels with nvcc for sm_90 against the headers of the current Kokkos (5.x); nothing
# is linked or run: its library comes for hosts only. Not part of CI, run before an issue closes.
#
#   tools/check_modern_cuda.sh [--prefix DIR] [FILES...]   (default: src/kernels and the device forms of linalg and model)
set -Eeuo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
prefix=$root/.deps
while (($#)); do
  case $1 in
    -h | --help) sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    --prefix) prefix=$2; shift 2 ;;
    *) break ;;
  esac
done
[[ ! -d /usr/local/cuda/bin ]] || PATH=$PATH:/usr/local/cuda/bin
command -v nvcc >/dev/null || { echo "check_modern_cuda: no nvcc found, nothing is compiled"; exit 0; }
"$root/tools/kokkos.sh" --kokkos modern --prefix "$prefix"

# The installed configuration knows OpenMP alone. Beside it, one that has CUDA for Hopper too.
headers=$(dirname "$(find "$prefix/kokkos-modern/usr/include" -name Kokkos_Core.hpp | head -n 1)")
build=$root/build/modern_cuda
mkdir -p "$build/config"
sed -E 's,/\* #undef (KOKKOS_ENABLE_CUDA|KOKKOS_ARCH_HOPPER|KOKKOS_ARCH_HOPPER90) \*/,#define \1,' \
  "$headers/KokkosCore_config.h" >"$build/config/KokkosCore_config.h"
for part in Declare Fwd; do
  name=$(cd "$headers" && echo KokkosCore_Config_$part*.hpp)
  sed -E 's,#include <(decl/Kokkos_Declare|fwd/Kokkos_Fwd)_OPENMP.hpp>,&\n#include <\1_CUDA.hpp>,' "$headers/$name" >"$build/config/$name"
done
sed 's|#define KOKKOS_SETUP_HPP_|&\n#include <setup/Kokkos_Setup_Cuda.hpp>|' \
  "$headers/KokkosCore_Config_SetupBackend.hpp" >"$build/config/KokkosCore_Config_SetupBackend.hpp"

(($#)) || set -- "$root"/src/kernels/*.cpp "$root"/src/linalg/{gemm_device,gemm_cublas,grouped_gemm,peak}.cpp \
  "$root"/src/model/blocked_attention.cpp
failed=()
for file in "$@"; do
  object=$build/$(basename "$file").o
  nvcc -x cu -arch=sm_90 -std=c++20 -O1 -c "$file" -o "$object" --extended-lambda --expt-relaxed-constexpr \
    -DFMT_USE_CONSTEXPR=1 -DDESUL_ATOMICS_ENABLE_CUDA -I"$build/config" -isystem "$headers" -isystem "${headers%/*}" -I"$root/include" -I"$root/src/linalg" \
    -Xcompiler -fopenmp,-fno-math-errno,-fno-trapping-math || failed+=("$(basename "$file")")
done
if ((${#failed[@]})); then
  echo "check_modern_cuda: of $# files these do not compile for sm_90: ${failed[*]}"
  exit 1
fi
echo "check_modern_cuda: $# files compile for sm_90 against Kokkos" \
  "$(sed -nE 's/#define KOKKOS_VERSION_(MAJOR|MINOR|PATCH) //p' "$headers/KokkosCore_config.h" | paste -sd.)," \
  "nvcc $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'); nothing was linked or run"
