// half and bfloat16: storage types with the conversions, operators and intrinsics of CUDA C.
// half is the compiler's _Float16 (GCC 12, clang 15 and later).
#pragma once
#include "cuda_emulation.h"

#ifndef __FLT16_MAX__
#error "half precision kernels need a host compiler with _Float16: g++ 12 or clang++ 15"
#endif

using half = _Float16;
using __half = half;
struct alignas(4) half2 {
  half x, y;
  half2() = default;
  half2(half x, half y) : x(x), y(y) {}
};
using __half2 = half2;

struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(const __nv_bfloat16&) = default;
  __nv_bfloat16(const volatile __nv_bfloat16& other) : bits(other.bits) {}
  __nv_bfloat16& operator=(const __nv_bfloat16&) = default;
  void operator=(const __nv_bfloat16& other) volatile { bits = other.bits; }
  template <class T, class = std::enable_if_t<std::is_arithmetic<T>::value || std::is_same<T, half>::value>>
  __nv_bfloat16(T value) : bits(round(float(value))) {}
  operator float() const volatile { return cuda_emulation::bit_cast<float>(uint32_t(bits) << 16); }

 private:
  static uint16_t round(float value) {   // to nearest, ties to even; NaN is canonical
    const uint32_t word = cuda_emulation::bit_cast<uint32_t>(value);
    return value != value ? 0x7FFF : uint16_t((word + 0x7FFF + (word >> 16 & 1)) >> 16);
  }
};
using nv_bfloat16 = __nv_bfloat16;
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
  __nv_bfloat162() = default;
  __nv_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) : x(x), y(y) {}
};
using nv_bfloat162 = __nv_bfloat162;

// Arithmetic of two bfloat16 is rounded to bfloat16 after every operation.  Templates, so that
// a mixture with float takes the conversion to float instead.
namespace cuda_emulation {
template <class A, class B>
using both_bfloat16 =
    std::enable_if_t<std::is_same<A, __nv_bfloat16>::value && std::is_same<B, __nv_bfloat16>::value, __nv_bfloat16>;
}
#define CUDA_EMULATION_BFLOAT16(op)                                                    \
  template <class A, class B>                                                          \
  static inline cuda_emulation::both_bfloat16<A, B> operator op(A a, B b) {            \
    return float(a) op float(b);                                                       \
  }                                                                                    \
  template <class B>                                                                   \
  static inline __nv_bfloat16& operator op##=(__nv_bfloat16& a, B b) {                 \
    return a = float(a) op float(b);                                                   \
  }
CUDA_EMULATION_BFLOAT16(+)
CUDA_EMULATION_BFLOAT16(-)
CUDA_EMULATION_BFLOAT16(*)
CUDA_EMULATION_BFLOAT16(/)

// ---- conversions ---------------------------------------------------------------------
static inline half __float2half(float x) { return half(x); }
static inline half __float2half_rn(float x) { return half(x); }
static inline half __double2half(double x) { return half(x); }
static inline half __int2half_rn(int x) { return half(x); }
static inline float __half2float(half x) { return float(x); }
static inline int __half2int_rz(half x) { return int(x); }
static inline half __ushort_as_half(unsigned short x) { return cuda_emulation::bit_cast<half>(x); }
static inline half __short_as_half(short x) { return cuda_emulation::bit_cast<half>(x); }
static inline unsigned short __half_as_ushort(half x) { return cuda_emulation::bit_cast<unsigned short>(x); }
static inline short __half_as_short(half x) { return cuda_emulation::bit_cast<short>(x); }
static inline half2 make_half2(half x, half y) { return {x, y}; }
static inline half2 __halves2half2(half x, half y) { return {x, y}; }
static inline half2 __half2half2(half x) { return {x, x}; }
static inline half2 __float2half2_rn(float x) { return {half(x), half(x)}; }
static inline half2 __floats2half2_rn(float x, float y) { return {half(x), half(y)}; }
static inline half2 __float22half2_rn(float2 v) { return {half(v.x), half(v.y)}; }
static inline float2 __half22float2(half2 v) { return {float(v.x), float(v.y)}; }
static inline half __low2half(half2 v) { return v.x; }
static inline half __high2half(half2 v) { return v.y; }
static inline float __low2float(half2 v) { return float(v.x); }
static inline float __high2float(half2 v) { return float(v.y); }
static inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
static inline float __bfloat162float(__nv_bfloat16 x) { return x; }
static inline __nv_bfloat162 make_bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {float(v.x), float(v.y)}; }

// ---- arithmetic: computed wider, rounded once ----------------------------------------
#define CUDA_EMULATION_HALF_BINARY(T, V)                                               \
  static inline T __hadd(T a, T b) { return T(float(a) + float(b)); }                  \
  static inline T __hsub(T a, T b) { return T(float(a) - float(b)); }                  \
  static inline T __hmul(T a, T b) { return T(float(a) * float(b)); }                  \
  static inline T __hdiv(T a, T b) { return T(float(a) / float(b)); }                  \
  static inline T __hneg(T a) { return T(-float(a)); }                                 \
  static inline T __habs(T a) { return T(fabsf(float(a))); }                           \
  static inline T __hmax(T a, T b) { return T(fmaxf(float(a), float(b))); }            \
  static inline T __hmin(T a, T b) { return T(fminf(float(a), float(b))); }            \
  static inline T __hfma(T a, T b, T c) { return T(fma(double(a), double(b), double(c))); } \
  static inline bool __heq(T a, T b) { return float(a) == float(b); }                  \
  static inline bool __hne(T a, T b) { return float(a) != float(b); }                  \
  static inline bool __hlt(T a, T b) { return float(a) < float(b); }                   \
  static inline bool __hle(T a, T b) { return float(a) <= float(b); }                  \
  static inline bool __hgt(T a, T b) { return float(a) > float(b); }                   \
  static inline bool __hge(T a, T b) { return float(a) >= float(b); }                  \
  static inline bool __hisnan(T a) { return float(a) != float(a); }                    \
  static inline V __hadd2(V a, V b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }   \
  static inline V __hsub2(V a, V b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; }   \
  static inline V __hmul2(V a, V b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }   \
  static inline V __hmax2(V a, V b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }   \
  static inline V __hmin2(V a, V b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }   \
  static inline V __hfma2(V a, V b, V c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  static inline T hexp(T x) { return T(expf(float(x))); }                              \
  static inline T hexp2(T x) { return T(exp2f(float(x))); }                            \
  static inline T hlog(T x) { return T(logf(float(x))); }                              \
  static inline T hlog2(T x) { return T(log2f(float(x))); }                            \
  static inline T hlog10(T x) { return T(log10f(float(x))); }                          \
  static inline T hsqrt(T x) { return T(sqrtf(float(x))); }                            \
  static inline T hrsqrt(T x) { return T(1.0f / sqrtf(float(x))); }                    \
  static inline T hrcp(T x) { return T(1.0f / float(x)); }                             \
  static inline T hsin(T x) { return T(sinf(float(x))); }                              \
  static inline T hcos(T x) { return T(cosf(float(x))); }                              \
  static inline T htanh(T x) { return T(tanhf(float(x))); }                            \
  static inline T hfloor(T x) { return T(floorf(float(x))); }                          \
  static inline T hceil(T x) { return T(ceilf(float(x))); }                            \
  static inline T htrunc(T x) { return T(truncf(float(x))); }                          \
  static inline T hrint(T x) { return T(rintf(float(x))); }
CUDA_EMULATION_HALF_BINARY(half, half2)
CUDA_EMULATION_HALF_BINARY(__nv_bfloat16, __nv_bfloat162)
static inline half2 operator+(half2 a, half2 b) { return __hadd2(a, b); }
static inline half2 operator-(half2 a, half2 b) { return __hsub2(a, b); }
static inline half2 operator*(half2 a, half2 b) { return __hmul2(a, b); }
