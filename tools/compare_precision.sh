#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a deck in fp32 and in bf16 and compares the losses of every training step of stages 0, 1 and 5.
#
#   tools/compare_precision.sh UPIT DECK DIRECTORY [MEAN MOST] [KEY=VALUE...]
#
#   UPIT       the program, with its launcher if there is one: "mpirun -n 2 build/upit"
#   DIRECTORY  for the two runs; a run that is complete there is not made again
#   MEAN MOST  the band in per cent of the fp32 loss (default 1 and 5): of the difference's mean over a stage,
#              and of any step's. Ends with 1 where a stage leaves it.
set -eu
if [ $# -lt 3 ]; then
  sed -n '3,11s/^# \{0,1\}//p' "$0"
  exit 2
fi
program=$1 deck=$2 directory=$3
shift 3
mean=1 most=5
case ${1-} in
  [0-9]*) mean=$1 most=$2; shift 2 ;;
esac
for precision in fp32 bf16; do
  # shellcheck disable=SC2086  # a launcher has words
  $program "$deck" "run.directory=$directory/$precision" "train.precision=$precision" run.log_every=1 "$@" \
    > "$directory-$precision.log" 2>&1 || { tail -5 "$directory-$precision.log"; exit 1; }
done
awk -F, -v mean="$mean" -v most="$most" '
  FNR == 1 { for (i = 1; i <= NF; ++i) if ($i == "loss") column = i; ++file; next }
  $1 != "pretrain" && $1 != "prepare" && $1 != "post_train" { next }
  file == 1 { single[$1, $2] = $column; next }
  ($1, $2) in single {
    away = 100 * ($column - single[$1, $2]) / single[$1, $2]
    size = away < 0 ? -away : away
    if (!($1 in steps)) order[++stages] = $1
    ++steps[$1]; sum[$1] += size; signed[$1] += away
    if (size > largest[$1]) { largest[$1] = size; where[$1] = $2 }
    last32[$1] = single[$1, $2]; last16[$1] = $column
  }
  END {
    if (stages == 0) { print "no step is in both runs"; exit 1 }
    print "stage       steps  mean |difference|  mean difference  largest       last loss fp32  bf16"
    for (i = 1; i <= stages; ++i) {
      s = order[i]
      printf "%-10s %6d  %14.3f %%  %13.3f %%  %5.2f %% at %-4d  %10.4f  %10.4f\n", s, steps[s],
        sum[s] / steps[s], signed[s] / steps[s], largest[s], where[s], last32[s], last16[s]
      if (sum[s] / steps[s] > mean || largest[s] > most) bad = 1
    }
    if (bad) print "outside the band of " mean " % in the mean and " most " % in a step"
    exit bad
  }' "$directory/fp32/metrics.csv" "$directory/bf16/metrics.csv"
