// SPDX-License-Identifier: Apache-2.0
// Owns products of 16-bit operands by oneDNN's matmul: the primitives, made once a shape, and their scratch.
#include <dnnl.h>

#include <array>
#include <compare>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>

#include "backend.hpp"
#include "upit/core/error.hpp"

namespace upit::backend {
namespace {

void succeed(dnnl_status_t status, char const* what) {
  if (status != dnnl_success)
    expect(false, std::string("oneDNN: ") + what + " returned status " +
                      std::to_string(static_cast<int>(status)) + " for a product of bfloat16");
}

template <class Handle, dnnl_status_t (*destroy)(Handle)>
struct Destroy {
  void operator()(Handle handle) const { destroy(handle); }
};
template <class Handle, dnnl_status_t (*destroy)(Handle)>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<Handle, destroy>>;

using Engine = Owned<dnnl_engine_t, dnnl_engine_destroy>;
using Stream = Owned<dnnl_stream_t, dnnl_stream_destroy>;
using Attributes = Owned<dnnl_primitive_attr_t, dnnl_primitive_attr_destroy>;
using PostOps = Owned<dnnl_post_ops_t, dnnl_post_ops_destroy>;
using Description = Owned<dnnl_primitive_desc_t, dnnl_primitive_desc_destroy>;
using Primitive = Owned<dnnl_primitive_t, dnnl_primitive_destroy>;
using Memory = Owned<dnnl_memory_t, dnnl_memory_destroy>;

/// A product without its addresses.
struct Product {
  Op a, b;
  Index m, n, k, lda, ldb, ldc;
  float alpha, beta;
  bool single;  // C holds floats
  auto operator<=>(Product const&) const = default;
};

/// Extents that a primitive was made for; `any`: for all, and given when it runs.
struct Shapes {
  dnnl_memory_desc_t a, b, c;
};

Shapes shapes_of(Product const& p, bool any) {
  auto const extent = [any](Index i) { return any ? DNNL_RUNTIME_DIM_VAL : i; };
  auto const matrix = [&](Index rows, Index columns, Op op, Index ld, dnnl_data_type_t type) {
    dnnl_dims_t const dims = {extent(rows), extent(columns)};
    dnnl_dims_t const plain = {extent(ld), 1}, transposed = {1, extent(ld)};
    dnnl_memory_desc_t out;
    succeed(dnnl_memory_desc_init_by_strides(&out, 2, dims, type, op == Op::none ? plain : transposed),
            "dnnl_memory_desc_init_by_strides");
    return out;
  };
  return {matrix(p.m, p.k, p.a, p.lda, dnnl_bf16), matrix(p.k, p.n, p.b, p.ldb, dnnl_bf16),
          matrix(p.m, p.n, Op::none, p.ldc, p.single ? dnnl_f32 : dnnl_bf16)};
}

/// What runs one product, for the extents it was made for or for any.
struct Made {
  Primitive primitive;
  Index scratch = 0;              // bytes
  std::array<Memory, 3> operand;  // without `any`: only their addresses change
  dnnl_memory_desc_t scratch_shape{};
  Memory scratch_memory;
};

/// Weight gradients, whose sums run over tokens: oneDNN's kernel for fixed extents first copies all of A
/// transposed there, and was measured up to a quarter slower than its general one. Elsewhere it is the faster
/// one, by half where an extent is a LoRA rank or an expert count, by a few per cent at square products.
bool prefers_general(Product const& p) { return p.a == Op::transpose; }

/// All that oneDNN keeps for us. One product at a time: `multiply` locks.
class Products {
 public:
  Products() {
    dnnl_engine_t engine = nullptr;
    succeed(dnnl_engine_create(&engine, dnnl_cpu, 0), "dnnl_engine_create");
    engine_.reset(engine);
    dnnl_stream_t stream = nullptr;
    succeed(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "dnnl_stream_create");
    stream_.reset(stream);
    // The cache here is enough: theirs would keep a thousand shapes that ours has dropped.
    succeed(dnnl_set_primitive_cache_capacity(0), "dnnl_set_primitive_cache_capacity");
  }

  /// As `multiply` would take, by shape.
  Index scratch_bytes(Product const& p) {
    std::lock_guard const lock(mutex_);
    return make(p, shapes_of(p, prefers_general(p))).scratch;
  }

  void multiply(Product const& p, Bf16Kernel kernel, void const* a, void const* b, void* c) {
    std::lock_guard const lock(mutex_);
    void* const address[3] = {const_cast<void*>(a), const_cast<void*>(b), c};
    if (kernel == Bf16Kernel::general || (kernel == Bf16Kernel::by_shape && prefers_general(p))) {
      general(p, address);
    } else {
      fixed(p, address);
    }
  }

 private:
  static constexpr std::size_t kKept = 512;

  Made make(Product const& p, Shapes const& shapes) {
    dnnl_primitive_attr_t attributes = nullptr;
    succeed(dnnl_primitive_attr_create(&attributes), "dnnl_primitive_attr_create");
    Attributes const owned_attributes(attributes);
    succeed(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user),
            "dnnl_primitive_attr_set_scratchpad_mode");
    if (p.alpha != 1.0f) {
      succeed(dnnl_primitive_attr_set_output_scales(attributes, 1, 0, &p.alpha),
              "dnnl_primitive_attr_set_output_scales");
    }
    if (p.beta != 0.0f) {  // C = alpha A B + beta C: a sum may have any weight
      dnnl_post_ops_t post = nullptr;
      succeed(dnnl_post_ops_create(&post), "dnnl_post_ops_create");
      PostOps const owned_post(post);
      succeed(dnnl_post_ops_append_sum(post, p.beta), "dnnl_post_ops_append_sum");
      succeed(dnnl_primitive_attr_set_post_ops(attributes, post), "dnnl_primitive_attr_set_post_ops");
    }
    dnnl_matmul_desc_t operation;
    succeed(dnnl_matmul_desc_init(&operation, &shapes.a, &shapes.b, nullptr, &shapes.c),
            "dnnl_matmul_desc_init");
    dnnl_primitive_desc_t description = nullptr;
    succeed(dnnl_primitive_desc_create(&description, &operation, attributes, engine_.get(), nullptr),
            "dnnl_primitive_desc_create");
    Description const owned_description(description);
    Made made;
    if (auto const* scratch = dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0)) {
      made.scratch_shape = *scratch;
      made.scratch = static_cast<Index>(dnnl_memory_desc_get_size(scratch));
    }
    dnnl_primitive_t primitive = nullptr;
    succeed(dnnl_primitive_create(&primitive, description), "dnnl_primitive_create");
    made.primitive.reset(primitive);
    return made;
  }

  Memory memory(dnnl_memory_desc_t const& shape, void* address) {
    dnnl_memory_t out = nullptr;
    succeed(dnnl_memory_create(&out, &shape, engine_.get(), address), "dnnl_memory_create");
    return Memory(out);
  }

  /// Memory for any product so far; grows in the first steps.
  void* scratch(Index bytes) {
    constexpr std::align_val_t kPage{4096};
    if (bytes > scratch_bytes_) {
      scratch_.reset();
      scratch_ = {static_cast<char*>(::operator new(static_cast<std::size_t>(bytes), kPage)),
                  [](char* p) { ::operator delete(p, kPage); }};
      scratch_bytes_ = bytes;
    }
    return scratch_.get();
  }

  void execute(Made& made, std::array<Memory, 3> const& operand) {
    if (made.scratch > 0) {
      void* const address = scratch(made.scratch);
      if (!made.scratch_memory) made.scratch_memory = memory(made.scratch_shape, address);
      succeed(dnnl_memory_set_data_handle(made.scratch_memory.get(), address), "dnnl_memory_set_data_handle");
    }
    std::array<dnnl_exec_arg_t, 4> const arguments = {{{DNNL_ARG_SRC, operand[0].get()},
                                                       {DNNL_ARG_WEIGHTS, operand[1].get()},
                                                       {DNNL_ARG_DST, operand[2].get()},
                                                       {DNNL_ARG_SCRATCHPAD, made.scratch_memory.get()}}};
    succeed(dnnl_primitive_execute(made.primitive.get(), stream_.get(), made.scratch > 0 ? 4 : 3,
                                   arguments.data()),
            "dnnl_primitive_execute");
  }

  void fixed(Product const& p, void* const (&address)[3]) {
    auto found = made_.find(p);
    if (found == made_.end()) {
      if (made_.size() >= kKept) {
        made_.erase(order_.back());
        order_.pop_back();
      }
      Shapes const shapes = shapes_of(p, false);
      Made made = make(p, shapes);
      made.operand = {memory(shapes.a, address[0]), memory(shapes.b, address[1]),
                      memory(shapes.c, address[2])};
      order_.push_front(p);
      found = made_.emplace(p, std::pair(std::move(made), order_.begin())).first;
    }
    auto& [made, place] = found->second;
    order_.splice(order_.begin(), order_, place);
    for (int i = 0; i < 3; ++i) {
      succeed(dnnl_memory_set_data_handle(made.operand[i].get(), address[i]), "dnnl_memory_set_data_handle");
    }
    execute(made, made.operand);
  }

  void general(Product const& p, void* const (&address)[3]) {
    Product key = p;
    key.m = key.n = key.k = key.lda = key.ldb = key.ldc = 0;
    auto found = general_.find(key);
    if (found == general_.end()) found = general_.emplace(key, make(p, shapes_of(p, true))).first;
    Shapes const shapes = shapes_of(p, false);
    execute(found->second,
            {memory(shapes.a, address[0]), memory(shapes.b, address[1]), memory(shapes.c, address[2])});
  }

  Engine engine_;
  Stream stream_;
  std::list<Product> order_;  // the one used last comes first
  std::map<Product, std::pair<Made, std::list<Product>::iterator>> made_;
  std::map<Product, Made> general_;
  std::unique_ptr<char, void (*)(char*)> scratch_{nullptr, [](char*) {}};
  Index scratch_bytes_ = 0;
  std::mutex mutex_;
};

Products& products() {
  static Products all;  // library handles; nothing here outlives Kokkos' memory
  return all;
}

}  // namespace

Index bf16_scratch(Op a, Op b, Index m, Index n, Index k) {
  Index const lda = a == Op::none ? k : m, ldb = b == Op::none ? n : k;
  return products().scratch_bytes({a, b, m, n, k, lda, ldb, n, 1.0F, 0.0F, false});
}

template <class TC>
void gemm_bf16(Op a, Op b, Index m, Index n, Index k, float alpha, bfloat16 const* A, Index lda,
               bfloat16 const* B, Index ldb, float beta, TC* C, Index ldc, Bf16Kernel kernel) {
  products().multiply({a, b, m, n, k, lda, ldb, ldc, alpha, beta, std::is_same_v<TC, float>}, kernel, A, B,
                      C);
}

template void gemm_bf16(Op, Op, Index, Index, Index, float, bfloat16 const*, Index, bfloat16 const*, Index,
                        float, bfloat16*, Index, Bf16Kernel);
template void gemm_bf16(Op, Op, Index, Index, Index, float, bfloat16 const*, Index, bfloat16 const*, Index,
                        float, float*, Index, Bf16Kernel);

}  // namespace upit::backend

namespace upit {

Bf16Products bf16_products() {
  auto const isa = static_cast<unsigned>(dnnl_get_effective_cpu_isa());
  auto const has = [isa](dnnl_cpu_isa_t wanted) {
    return (isa & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
  };
  if (has(dnnl_cpu_isa_avx512_core_bf16)) return Bf16Products::native;
  return has(dnnl_cpu_isa_avx512_core) ? Bf16Products::emulated : Bf16Products::none;
}

}  // namespace upit
