#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs a deck in fp32 and in bf16, compares the losses of the steps of stages 0, 1 and 5, prints a Markdown table.
#
#   tools/compare_precision.sh [OPTIONS] UPIT DECK DIRECTORY [KEY=VALUE...]
#
#   UPIT               the program, without a launcher
#   DIRECTORY          for the runs, fp32, bf16 and beside; a run that is complete there is not made again
#   KEY=VALUE          keys that win over the deck, in every run
#   --ranks N          MPI ranks of both runs (default 2)
#   --beside "N [KEY=VALUE...]"
#                      a third run, fp32 on N ranks: what a sum in another order alone does to the losses, by which
#                      the difference of bf16 is to be judged. A whole run more
#   --steps N          compare the first N steps of a stage (default 200; 0: all)
#   --band MEAN SIZE   in per cent of the fp32 loss (default 0.5 and 1): the mean of the difference over a stage, and
#                      the mean of its size. A stage outside ends the script with 1
#   --launcher WORDS   what the number of ranks follows (default "mpirun -n")
#
# For example, for the flagship decks:
#   tools/compare_precision.sh --beside 1 build/openmp/upit inputs/lora8e.toml runs/precision/lora8e
#   tools/compare_precision.sh --beside "1 parallel.expert=1" build/openmp/upit inputs/ffn4e.toml runs/precision/ffn4e
#
# Every step must be in every run with a finite loss; else the script ends with 1 and names run, stage and step.
set -eu
LC_ALL=C
export LC_ALL
die() { echo "compare_precision: $*" >&2; exit 1; }
usage() { sed -n '3,/^set/{/^#/s/^# \{0,1\}//p;}' "$0"; exit "$1"; }
whole() { case $2 in '' | *[!0-9]*) die "$1 takes a whole number, not '$2'" ;; esac; }
number() { echo "$2" | grep -Eqx '[0-9]+([.][0-9]+)?' || die "$1 takes numbers, not '$2'"; }

ranks=2 beside='' steps=200 bias=0.5 size=1 launcher='mpirun -n'
while [ $# -gt 0 ]; do
  case $1 in
    --ranks | --beside | --steps | --launcher)
      [ $# -gt 1 ] || die "$1 needs a value"
      case $1 in
        --ranks) ranks=$2 ;;
        --beside) beside=$2 ;;
        --steps) steps=$2 ;;
        --launcher) launcher=$2 ;;
      esac
      shift 2 ;;
    --band)
      [ $# -gt 2 ] || die "--band needs two values"
      bias=$2 size=$3
      shift 3 ;;
    -h | --help) usage 0 ;;
    -*) die "unknown option $1 (see --help)" ;;
    *) break ;;
  esac
done
[ $# -ge 3 ] || usage 2
whole --ranks "$ranks"
whole --steps "$steps"
number --band "$bias"
number --band "$size"
[ -z "$beside" ] || whole --beside "${beside%% *}"
upit=$1 deck=$2 directory=$3
shift 3

# NAME PRECISION "RANKS [KEY=VALUE...]" [KEY=VALUE...]
launch() {
  name=$1 precision=$2 count=${3%% *} keys=${3#"${3%% *}"}
  shift 3
  if [ -f "$directory/$name.version" ]; then
    [ "$(cat "$directory/$name.version")" = "$version" ] ||
      die "the run $directory/$name is of $(cat "$directory/$name.version"), this program is $version: take another directory"
  else
    echo "$version" >"$directory/$name.version"
  fi
  echo "compare_precision: $deck in $precision, ranks $count, into $directory/$name" >&2
  # shellcheck disable=SC2086  # a launcher has words, and so have keys
  $launcher "$count" "$upit" "$deck" "run.directory=$directory/$name" "train.precision=$precision" \
    run.log_every=1 "$@" $keys </dev/null >"$directory/$name.log" 2>&1 ||
    { grep -m 3 error "$directory/$name.log" >&2 || tail -n 5 "$directory/$name.log" >&2; die "the run $name ended with an error (see $directory/$name.log)"; }
  [ -f "$directory/$name/metrics.csv" ] || die "the run $name left no $directory/$name/metrics.csv"
}
mkdir -p "$directory"
version=$("$upit" --version </dev/null | head -n 1)
launch fp32 fp32 "$ranks" "$@"
launch bf16 bf16 "$ranks" "$@"
[ -z "$beside" ] || launch beside fp32 "$beside" "$@"

set -- "$directory/fp32/metrics.csv" "$directory/bf16/metrics.csv"
[ -z "$beside" ] || set -- "$@" "$directory/beside/metrics.csv"
echo "$deck, $version: bf16 against fp32, ranks $ranks${beside:+; beside it fp32, ranks $beside}. In per cent of the fp32 loss."
echo
awk -F, -v bias="$bias" -v size="$size" -v most="$steps" -v beside="$beside" '
  function stop(what) { printf "compare_precision: %s\n", what | "cat >&2"; failed = 1; exit 1 }
  function magnitude(x) { return x < 0 ? -x : x }
  # Differences of a run to fp32 over a stage, into mean, amount, largest, where.
  function compare(run, stage, n,   i, away) {
    mean = amount = largest = where = 0
    for (i = 1; i <= n; ++i) {
      away = 100 * (loss[run, stage, i] - loss[1, stage, i]) / loss[1, stage, i]
      mean += away / n
      amount += magnitude(away) / n
      if (magnitude(away) >= largest) { largest = magnitude(away); where = i }
    }
  }
  function last(run, stage, n,   i, sum, from) {
    from = n > 10 ? n - 9 : 1
    for (i = from; i <= n; ++i) sum += loss[run, stage, i]
    return sum / (n - from + 1)
  }
  BEGIN {
    split("fp32 bf16 beside", names, " ")
    stages = split("pretrain prepare post_train", order, " ")
    for (i = 1; i <= stages; ++i) known[order[i]] = 1
  }
  FNR == 1 {
    ++runs
    column = 0
    for (i = 1; i <= NF; ++i) if ($i == "loss") column = i
    if (!column || $1 != "stage" || $2 != "step") stop(FILENAME ": no columns stage, step, loss")
    next
  }
  !($1 in known) { next }
  {
    if (($1, $2) in seen && seen[$1, $2] == runs) stop(names[runs] " run, stage " $1 ", step " $2 ": twice in the file")
    seen[$1, $2] = runs
    loss[runs, $1, $2] = $column
    if ($2 + 0 > steps[$1]) steps[$1] = $2 + 0
  }
  END {
    if (failed) exit 1
    if (runs != (beside == "" ? 2 : 3)) stop("a metrics.csv is empty")
    for (i = 1; i <= stages; ++i) {
      s = order[i]
      if (!steps[s] && s == "pretrain") continue  # the deck names a base
      if (!steps[s]) stop("all runs, stage " s ", step 1: missing")
      n = most > 0 && steps[s] > most ? most : steps[s]
      for (r = 1; r <= runs; ++r)
        for (k = 1; k <= n; ++k) {
          if (!((r, s, k) in loss)) stop(names[r] " run, stage " s ", step " k ": missing")
          if (loss[r, s, k] !~ /^[0-9]+([.][0-9]*)?([eE][-+]?[0-9]+)?$/ || loss[r, s, k] + 0 == 0)
            stop(names[r] " run, stage " s ", step " k ": the loss is \"" loss[r, s, k] "\", no positive number")
        }
      compared[s] = n
    }
    printf "| stage | steps | bf16: mean difference | mean size | largest |"
    if (beside != "") printf " beside: mean difference | mean size | largest |"
    printf " last 10 losses, mean: fp32 | bf16 |\n|---|---|---|---|---|"
    if (beside != "") printf "---|---|---|"
    printf "---|---|\n"
    for (i = 1; i <= stages; ++i) {
      s = order[i]
      n = compared[s]
      if (!n) continue
      printf "| %s | %d |", s, n
      for (r = 2; r <= runs; ++r) {
        compare(r, s, n)
        printf " %.3f | %.3f | %.2f at step %d |", mean, amount, largest, where
        if (r == 2 && (amount > size || magnitude(mean) > bias)) outside = outside (outside == "" ? "" : ", ") s
      }
      printf " %.4f | %.4f |\n", last(1, s, n), last(2, s, n)
    }
    if (outside != "")
      stop("outside the band of " bias " % for the mean difference and " size " % for its mean size: " outside)
  }' "$@"
