// SPDX-License-Identifier: Apache-2.0
#include "upit/linalg/tf32.hpp"

namespace upit {
namespace {

bool allowed = false;
int withheld = 0;  // scopes that live

}  // namespace

void allow_tf32(bool on) { allowed = on; }

bool tf32_allowed() { return allowed && withheld == 0; }

FullFp32::FullFp32() { ++withheld; }

FullFp32::~FullFp32() { --withheld; }

}  // namespace upit
