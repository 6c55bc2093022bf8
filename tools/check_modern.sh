#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds upit against the current Kokkos (5.x, host) and runs the tests; not part of CI, run before an issue closes.
#
#   tools/check_modern.sh [options of tools/setup.sh] [-- CTEST ARGUMENTS...]
set -Eeuo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
  sed -n '3,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
  exit 0
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
options=()
while (($#)) && [[ $1 != -- ]]; do
  options+=("$1")
  shift
done
(($# == 0)) || shift
exec "$root/tools/setup.sh" --preset modern "${options[@]}" test "$@"
