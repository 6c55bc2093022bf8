# SPDX-License-Identifier: Apache-2.0
# cmake -DUPIT_SOURCE=CHECKOUT -DUPIT_HEADER=FILE -P git_hash.cmake: writes the commit of the checkout into the
# header, "-dirty" behind it where tracked files have changes. The file is left alone, and with it what was compiled
# from it, if it says so already.
execute_process(COMMAND git describe --always --dirty --abbrev=12 WORKING_DIRECTORY "${UPIT_SOURCE}"
                OUTPUT_VARIABLE hash OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed AND EXISTS "${UPIT_SOURCE}/.pack/commit") # an archive of tools/pack_cuda.sh
  file(STRINGS "${UPIT_SOURCE}/.pack/commit" hash LIMIT_COUNT 1)
elseif(failed)
  set(hash "unknown")
endif()
set(text "#define UPIT_GIT_HASH \"${hash}\"\n")
set(before "")
if(EXISTS "${UPIT_HEADER}")
  file(READ "${UPIT_HEADER}" before)
endif()
if(NOT before STREQUAL text)
  file(WRITE "${UPIT_HEADER}" "${text}")
endif()
