# SPDX-License-Identifier: Apache-2.0
# Runs tools/compare_precision.sh with a program that writes invented losses: its table, and what it must refuse.
file(REMOVE_RECURSE "${UPIT_FOLDER}")
file(MAKE_DIRECTORY "${UPIT_FOLDER}/given")
set(program "${UPIT_FOLDER}/program")
# The run of the folder NAME gets the losses given/NAME.csv; what the program was called with stays in NAME.called.
file(WRITE "${program}" [=[#!/bin/sh
case $1 in --version) echo "program 1"; exit 0 ;; esac
for word in "$@"; do
  case $word in run.directory=*) directory=${word#*=} ;; esac
done
mkdir -p "$directory"
name=${directory##*/}
echo "$*" > "$directory/../$name.called"
cp "${0%/*}/given/$name.csv" "$directory/metrics.csv"
]=])
file(CHMOD "${program}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)

# Losses of 2 in all stages, 3 steps each; post_train has those of the arguments.
function(losses name)
  set(text "stage,step,loss,norm\nstage,0,,\n")
  foreach(stage pretrain prepare)
    foreach(step 1 2 3)
      string(APPEND text "${stage},${step},2.0,1.0\nroute,${step},7.0,1.0\n")
    endforeach()
  endforeach()
  set(step 0)
  foreach(loss ${ARGN})
    math(EXPR step "${step} + 1")
    if(NOT loss STREQUAL "-")
      string(APPEND text "post_train,${step},${loss},1.0\n")
    endif()
  endforeach()
  file(WRITE "${UPIT_FOLDER}/given/${name}.csv" "${text}")
endfunction()

# Runs the script with the options ARGN; it must end with RC, and its output must hold WHAT, word by word.
function(expect rc what)
  # `nice -n 2 program` stands where `mpirun -n 2 program` would
  execute_process(COMMAND sh "${UPIT_SCRIPT}" --launcher "nice -n" ${ARGN} "${program}" deck.toml "${UPIT_FOLDER}/runs"
                          train.batch=4 RESULT_VARIABLE result OUTPUT_VARIABLE out ERROR_VARIABLE out)
  string(FIND "${out}" "${what}" place)
  if(NOT result EQUAL rc OR place EQUAL -1)
    message(FATAL_ERROR "expected ${rc} and\n${what}\ngot ${result} and\n${out}")
  endif()
endfunction()

losses(fp32 2.0 4.0 2.0)
losses(bf16 2.004 3.996 2.0)   # +0.2 %, -0.1 %, 0
losses(beside 2.008 4.0 2.004) # +0.4 %, 0, +0.2 %
expect(0 "| post_train | 3 | 0.033 | 0.100 | 0.20 at step 1 | 2.6667 | 2.6667 |")
expect(0 "| pretrain | 3 | 0.000 | 0.000 |")
expect(0 "| post_train | 3 | 0.033 | 0.100 | 0.20 at step 1 | 0.200 | 0.200 | 0.40 at step 1 |" --beside "1 a.b=5")
file(READ "${UPIT_FOLDER}/runs/beside.called" called)
if(NOT called MATCHES "^deck.toml .*train.precision=fp32 run.log_every=1 train.batch=4 a.b=5\n$")
  message(FATAL_ERROR "${called}")
endif()
file(READ "${UPIT_FOLDER}/runs/bf16.called" called)
if(NOT called MATCHES "train.precision=bf16 run.log_every=1 train.batch=4\n$")
  message(FATAL_ERROR "${called}")
endif()
expect(1 "outside the band of 0.5 % for the mean difference and 0.05 % for its mean size: post_train" --band 0.5 0.05)
expect(0 "| post_train | 1 | 0.200 | 0.200 |" --steps 1 --band 0.21 0.21)
expect(1 "outside the band" --steps 1 --band 0.19 0.21)

losses(bf16 2.0 nan 2.0)
expect(1 "compare_precision: bf16 run, stage post_train, step 2: the loss is \"nan\"")
expect(0 "| post_train | 1 |" --steps 1)
losses(bf16 2.0 4.0 inf)
expect(1 "compare_precision: bf16 run, stage post_train, step 3: the loss is \"inf\"")
losses(bf16 2.0 - 2.0)
expect(1 "compare_precision: bf16 run, stage post_train, step 2: missing")
losses(bf16 2.0 4.0)
expect(1 "compare_precision: bf16 run, stage post_train, step 3: missing")
losses(bf16 2.0 4.0 2.0 2.0) # a step too many is one that the other run lacks
expect(1 "compare_precision: fp32 run, stage post_train, step 4: missing")
losses(bf16)
expect(1 "compare_precision: bf16 run, stage post_train, step 1: missing")
losses(bf16 2.0 4.0 2.0)
losses(beside 2.0 4.0 -nan)
expect(1 "compare_precision: beside run, stage post_train, step 3: the loss is \"-nan\"" --beside 1)
losses(fp32)
losses(bf16)
expect(1 "compare_precision: all runs, stage post_train, step 1: missing")
file(REMOVE "${UPIT_FOLDER}/given/bf16.csv")
expect(1 "compare_precision: the run bf16 ended with an error")
expect(1 "compare_precision: --steps takes a whole number, not 'x'" --steps x)

# Runs of another program are not compared with this one's.
file(WRITE "${UPIT_FOLDER}/runs/fp32.version" "program 0\n")
losses(bf16 2.0 4.0 2.0)
expect(1 "is of program 0, this program is program 1")
