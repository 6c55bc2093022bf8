// SPDX-License-Identifier: Apache-2.0
// Owns transposed copies of host matrices: what turns a product with B^T into the faster one with B.
#pragma once

#include "upit/core/types.hpp"

namespace upit {

/// t = a^T on the calling thread, for use inside a host parallel region. T is float, double or bfloat16; the
/// copy is in Real<T>. Host memory only; the two do not overlap.
///
///   a  (rows, columns)  rows lda elements apart
///   t  (columns, rows)  rows ldt elements apart
template <class T>
void transpose_in_thread(Index rows, Index columns, T const* a, Index lda, Real<T>* t, Index ldt);

/// The same on all host threads, t without gaps between its rows; enqueued and finished when it returns.
template <class T>
void transpose_on_host(Index rows, Index columns, T const* a, Index lda, Real<T>* t);

}  // namespace upit
