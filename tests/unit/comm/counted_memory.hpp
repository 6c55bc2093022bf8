// SPDX-License-Identifier: Apache-2.0
// Owns a count of all memory that the C++ code of a test program asks for; C libraries are not counted. To be
// included by one source of the program: it replaces operator new.
#pragma once

#include <cstdlib>
#include <new>

namespace upit::test {

inline long allocations = 0;

}  // namespace upit::test

// Not inlined: g++ 12 would take free() for the wrong partner of new.
[[gnu::noinline]] void* operator new(std::size_t n) {
  ++upit::test::allocations;
  if (void* const p = std::malloc(n > 0 ? n : 1)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
