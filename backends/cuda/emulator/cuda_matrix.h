// Warp-wide matrix operations and asynchronous copies of sm_80: nvcuda::wmma,
// mma.sync, ldmatrix, cp.async.  A matrix product is a warp collective: the last
// lane to arrive computes it for all, reading the registers of the others.
#pragma once
#include "cuda_emulation.h"
#include "cuda_half.h"

#if defined(__GNUC__) && !defined(__clang__)
#define CUDA_EMULATION_HOT CUDA_EMULATION_UNCHECKED __attribute__((optimize("O3")))
#else
#define CUDA_EMULATION_HOT CUDA_EMULATION_UNCHECKED
#endif

namespace cuda_emulation {

constexpr unsigned all_lanes = ~0u;

// Asynchronous copies: the destination is poisoned when the copy is issued and
// written when the issuing thread waits for it.
CUDA_EMULATION_SHARED void copy_async(unsigned destination, const void* source, size_t bytes, size_t filled,
                                      int site = __builtin_LINE());
CUDA_EMULATION_SHARED void commit_copies();
CUDA_EMULATION_SHARED void wait_copies(int pending, int site = __builtin_LINE());

// ---- ldmatrix: 8x8 matrices of 16-bit elements; lane 8m+r names row r of matrix m --------
struct RowAddress {
  unsigned address;
  unsigned registers[4];
  int site;
};

template <int count, bool transposed>
CUDA_EMULATION_UNCHECKED void load_rows(void* const* operands, unsigned lanes) {
  if (lanes != all_lanes) fail("ldmatrix needs all 32 lanes of the warp");
#ifdef CUDA_EMULATION_CHECKED
  for (int lane = 0; lane < 8 * count; ++lane) {
    const auto* row = static_cast<const RowAddress*>(operands[lane]);
    note_lane_access(lane, block->shared + row->address, 16, AccessKind::read, row->site);
  }
#endif
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < count; ++matrix) {
      uint16_t pair[2];
      for (int q = 0; q < 2; ++q) {
        const int row = transposed ? lane % 4 * 2 + q : lane / 4;
        const int column = transposed ? lane / 4 : lane % 4 * 2 + q;
        const auto* source = static_cast<const RowAddress*>(operands[matrix * 8 + row]);
        memcpy(&pair[q], block->shared + source->address + 2 * column, 2);
      }
      static_cast<RowAddress*>(operands[lane])->registers[matrix] = pair[0] | unsigned(pair[1]) << 16;
    }
  }
}

template <int count, bool transposed>
inline void load_matrices(unsigned address, unsigned* registers, int site = __builtin_LINE()) {
  RowAddress operand = {address, {}, site};
  wait_collective(all_lanes, &operand, load_rows<count, transposed>, site);
  for (int matrix = 0; matrix < count; ++matrix) registers[matrix] = operand.registers[matrix];
}

// ---- mma.sync m16n8kK: fragment layouts of the PTX manual, for any element width ---------
struct Element_f16 {
  static constexpr int count = 2;
  using Value = float;
  static float get(unsigned word, int i) { return float(bit_cast<half>(uint16_t(word >> 16 * i))); }
};
struct Element_bf16 {
  static constexpr int count = 2;
  using Value = float;
  static float get(unsigned word, int i) { return bit_cast<float>(word >> 16 * i << 16); }
};
struct Element_tf32 {
  static constexpr int count = 1;
  using Value = float;
  static float get(unsigned word, int) { return bit_cast<float>(word & 0xFFFFE000u); }   // 10 mantissa bits
};
// cvt.rna.tf32: to 10 mantissa bits, ties away from zero; NaN and infinity stay.
inline unsigned round_to_tf32(float value) {
  const unsigned bits = bit_cast<unsigned>(value);
  return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & 0xFFFFE000u;
}
struct Element_s8 {
  static constexpr int count = 4;
  using Value = int;
  static int get(unsigned word, int i) { return int8_t(word >> 8 * i); }
};
struct Element_u8 {
  static constexpr int count = 4;
  using Value = int;
  static int get(unsigned word, int i) { return uint8_t(word >> 8 * i); }
};

// Accumulators: one value a register, or two halves a register.
template <class Word>
inline auto accumulator(const Word* words, int i) {
  return words[i];
}
inline float accumulator(const unsigned* words, int i) { return Element_f16::get(words[i / 2], i % 2); }
template <class Word, class Value>
inline void set_accumulator(Word* words, int i, Value value) {
  words[i] = value;
}
inline void set_accumulator(unsigned* words, int i, float value) {
  const unsigned bits = bit_cast<uint16_t>(half(value));
  words[i / 2] = (words[i / 2] & (i % 2 ? 0x0000FFFFu : 0xFFFF0000u)) | bits << 16 * (i % 2);
}

template <class Word>
struct MultiplyOperand {
  const unsigned *a, *b;
  const Word* c;
  Word* d;
};

template <class Element, int columns, int depth, class Word>
CUDA_EMULATION_HOT void multiply(void* const* operands, unsigned lanes) {
  using Value = typename Element::Value;
  constexpr int per_word = Element::count;
  if (lanes != all_lanes) fail("mma.sync needs all 32 lanes of the warp");
  Value a[16][depth], b[columns][depth];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& operand = *static_cast<const MultiplyOperand<Word>*>(operands[lane]);
    const int group = lane / 4, first = lane % 4 * per_word;
    for (int word = 0; word < 16 * depth / per_word / 32; ++word) {
      for (int i = 0; i < per_word; ++i) {
        a[group + 8 * (word % 2)][first + 4 * per_word * (word / 2) + i] = Element::get(operand.a[word], i);
      }
    }
    for (int word = 0; word < columns * depth / per_word / 32; ++word) {
      for (int i = 0; i < per_word; ++i) b[group][first + 4 * per_word * word + i] = Element::get(operand.b[word], i);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& operand = *static_cast<const MultiplyOperand<Word>*>(operands[lane]);
    for (int i = 0; i < 4; ++i) {
      const Value* row = a[lane / 4 + 8 * (i / 2)];
      const Value* column = b[lane % 4 * 2 + i % 2];
      Value sum = 0;
      for (int k = 0; k < depth; ++k) sum += row[k] * column[k];
      set_accumulator(operand.d, i, accumulator(operand.c, i) + sum);
    }
  }
}

template <class Element, int rows, int columns, int depth, class Word>
inline void multiply_matrices(const unsigned* a, const unsigned* b, const Word* c, Word* d, int site = __builtin_LINE()) {
  static_assert(rows == 16 && columns == 8, "the shapes of mma.sync on sm_80 are m16n8");
  MultiplyOperand<Word> operand = {a, b, c, d};
  wait_collective(all_lanes, &operand, multiply<Element, columns, depth, Word>, site);
}

}  // namespace cuda_emulation

// ---- nvcuda::wmma: element e of lane l is element l + 32 e of the tile in row-major order.
// The layout of a fragment is opaque to a program, so any will do.
namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static constexpr int rows = std::is_same<Use, matrix_b>::value ? K : M;
  static constexpr int columns = std::is_same<Use, matrix_a>::value ? K : N;
  static constexpr int num_elements = rows * columns / 32;
  using element_type = T;
  T x[num_elements];
};

template <class Fragment, class V>
inline void fill_fragment(Fragment& fragment, V value) {
  for (auto& element : fragment.x) element = value;
}

// Address of every element this lane holds, in a matrix with the given leading dimension.
template <class Fragment, class F>
CUDA_EMULATION_UNCHECKED inline void for_each_element(Fragment& fragment, unsigned leading, bool row_major_layout, F visit) {
  const int lane = cuda_emulation::lane();
  for (int e = 0; e < Fragment::num_elements; ++e) {
    const int flat = lane + 32 * e, row = flat / Fragment::columns, column = flat % Fragment::columns;
    visit(fragment.x[e], row_major_layout ? size_t(row) * leading + column : size_t(column) * leading + row);
  }
}

template <class T, class P>
struct Load {
  const P* source;
  int site;
  CUDA_EMULATION_UNCHECKED void operator()(T& element, size_t offset) const {
    cuda_emulation::note_access(source + offset, sizeof(P), cuda_emulation::AccessKind::read, site);
    element = source[offset];
  }
};
template <class T, class P>
struct Store {
  P* target;
  int site;
  CUDA_EMULATION_UNCHECKED void operator()(const T& element, size_t offset) const {
    cuda_emulation::note_access(target + offset, sizeof(P), cuda_emulation::AccessKind::write, site);
    target[offset] = element;
  }
};

template <class Use, int M, int N, int K, class T, class Layout, class P>
inline void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& target, const P* source, unsigned leading,
                             int site = __builtin_LINE()) {
  for_each_element(target, leading, std::is_same<Layout, row_major>::value, Load<T, P>{source, site});
}
template <int M, int N, int K, class T, class P>
inline void load_matrix_sync(fragment<accumulator, M, N, K, T>& target, const P* source, unsigned leading,
                             layout_t layout, int site = __builtin_LINE()) {
  for_each_element(target, leading, layout == mem_row_major, Load<T, P>{source, site});
}
template <int M, int N, int K, class T, class P>
inline void store_matrix_sync(P* target, const fragment<accumulator, M, N, K, T>& source, unsigned leading,
                              layout_t layout, int site = __builtin_LINE()) {
  for_each_element(source, leading, layout == mem_row_major, Store<T, P>{target, site});
}

template <class D, class A, class B>
struct Product {
  D* d;
  const A* a;
  const B* b;
  const D* c;
};

template <int M, int N, int K, class D, class A, class B>
CUDA_EMULATION_HOT void multiply_tiles(void* const* operands, unsigned lanes) {
  using T = typename D::element_type;
  using Value = std::conditional_t<std::is_integral<T>::value, int, std::conditional_t<std::is_same<T, double>::value, double, float>>;
  if (lanes != cuda_emulation::all_lanes) cuda_emulation::fail("wmma::mma_sync needs all 32 lanes of the warp");
  Value a[M * K], b[K * N], c[M * N];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& operand = *static_cast<const Product<D, A, B>*>(operands[lane]);
    for (int e = 0; e < A::num_elements; ++e) a[lane + 32 * e] = Value(operand.a->x[e]);
    for (int e = 0; e < B::num_elements; ++e) b[lane + 32 * e] = Value(operand.b->x[e]);
    for (int e = 0; e < D::num_elements; ++e) c[lane + 32 * e] = Value(operand.c->x[e]);
  }
  for (int m = 0; m < M; ++m) {
    for (int k = 0; k < K; ++k) {
      for (int n = 0; n < N; ++n) c[m * N + n] += a[m * K + k] * b[k * N + n];
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    D& d = *static_cast<const Product<D, A, B>*>(operands[lane])->d;
    for (int e = 0; e < D::num_elements; ++e) d.x[e] = T(c[lane + 32 * e]);
  }
}

template <int M, int N, int K, class T, class SA, class SB, class LA, class LB>
inline void mma_sync(fragment<accumulator, M, N, K, T>& d, const fragment<matrix_a, M, N, K, SA, LA>& a,
                     const fragment<matrix_b, M, N, K, SB, LB>& b, const fragment<accumulator, M, N, K, T>& c,
                     int site = __builtin_LINE()) {
  using D = fragment<accumulator, M, N, K, T>;
  using A = fragment<matrix_a, M, N, K, SA, LA>;
  using B = fragment<matrix_b, M, N, K, SB, LB>;
  Product<D, A, B> operand = {&d, &a, &b, &c};
  cuda_emulation::wait_collective(cuda_emulation::all_lanes, &operand, multiply_tiles<M, N, K, D, A, B>, site);
}
}  // namespace wmma
}  // namespace nvcuda
