#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a deck in fp32 and in bf16 and compares the losses of every training step of stages 0, 1 and 5.
#
#   tools/compare_precision.sh UPIT DECK DIRECTORY [BIAS SIZE] [KEY=VALUE...]
#
#   UPIT       the program, with its launcher if there is one: "mpirun -n 2 build/upit"
#   DIRECTORY  for the two runs; a run that is complete there is not made again
#   BIAS SIZE  the band in per cent of the fp32 loss (default 0.5 and 1): of the difference's mean over a
#              stage, and of the mean of its size. Ends with 1 where a stage leaves it. Trainings part as they
#              do when sums are merely taken in another order, the faster the smaller the batch; a single step
#              may differ by much where the loss jumps.
set -eu
if [ $# -lt 3 ]; then
  sed -n '3,13s/^# \{0,1\}//p' "$0"
  exit 2
fi
program=$1 deck=$2 directory=$3
shift 3
bias=0.5 size=1
case ${1-} in
  [0-9]*) bias=$1 size=$2; shift 2 ;;
esac
for precision in fp32 bf16; do
  # shellcheck disable=SC2086  # a launcher has words
  $program "$deck" "run.directory=$directory/$precision" "train.precision=$precision" run.log_every=1 "$@" \
    > "$directory-$precision.log" 2>&1 || { tail -5 "$directory-$precision.log"; exit 1; }
done
awk -F, -v bias="$bias" -v size="$size" '
  FNR == 1 { for (i = 1; i <= NF; ++i) if ($i == "loss") column = i; ++file; next }
  $1 != "pretrain" && $1 != "prepare" && $1 != "post_train" { next }
  file == 1 { single[$1, $2] = $column; next }
  ($1, $2) in single {
    away = 100 * ($column - single[$1, $2]) / single[$1, $2]
    magnitude = away < 0 ? -away : away
    if (!($1 in steps)) order[++stages] = $1
    ++steps[$1]; sum[$1] += magnitude; signed[$1] += away
    if (magnitude > largest[$1]) { largest[$1] = magnitude; where[$1] = $2 }
    last32[$1] = single[$1, $2]; last16[$1] = $column
  }
  END {
    if (stages == 0) { print "no step is in both runs"; exit 1 }
    print "stage       steps  mean |difference|  mean difference  largest       last loss fp32  bf16"
    for (i = 1; i <= stages; ++i) {
      s = order[i]
      printf "%-10s %6d  %14.3f %%  %13.3f %%  %5.2f %% at %-4d  %10.4f  %10.4f\n", s, steps[s],
        sum[s] / steps[s], signed[s] / steps[s], largest[s], where[s], last32[s], last16[s]
      offset = signed[s] / steps[s]
      if (sum[s] / steps[s] > size || offset > bias || offset < -bias) bad = 1
    }
    if (bad) print "outside the band of " bias " % for the mean difference and " size " % for its size"
    exit bad
  }' "$directory/fp32/metrics.csv" "$directory/bf16/metrics.csv"
