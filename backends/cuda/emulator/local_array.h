// Arrays of one thread in checked kernels: they know their bounds and start with values that no
// correct result can hide, different in each order of lanes.
#pragma once
#include "cuda_emulation.h"

namespace cuda_emulation {

[[noreturn]] void leave_local_array(int64_t index, uint64_t count);

// NaN, or an infinity of either sign: whatever neutral element a reduction should have started
// from, one of them is not it.  Integers become -1 or a pattern of either sign.
template <class T>
constexpr bool is_real = std::is_floating_point<T>::value;
#ifdef __FLT16_MAX__
template <>
constexpr bool is_real<_Float16> = true;
#endif
template <class T>
CUDA_EMULATION_UNCHECKED T poison_scalar(int order) {
  if constexpr (is_real<T>) {
    const T infinity = T(__builtin_inf());
    return order == 0 ? T(__builtin_nan("")) : order == 1 ? infinity : -infinity;
  } else {
    T value;
    memset(static_cast<void*>(&value), order == 0 ? 0xFF : order == 1 ? 0x7A : 0xA7, sizeof(T));
    return value;
  }
}

// The elements a poisoned type consists of: fragments of matrices and vectors have several.
template <class T, class = void>
struct Scalar {
  using type = T;
};
template <class T>
struct Scalar<T, std::void_t<typename T::element_type>> {
  using type = typename T::element_type;
};
template <class T>
struct Scalar<T, std::void_t<decltype(std::declval<T>().x), std::enable_if_t<!std::is_array<decltype(T::x)>::value>>> {
  using type = decltype(std::declval<T>().x);
};

// Not inlined: its memory would otherwise count as memory of the kernel.
template <class T>
__attribute__((noinline)) CUDA_EMULATION_UNCHECKED T poison_value() {
  using Value = typename Scalar<T>::type;
  static_assert(sizeof(T) % sizeof(Value) == 0, "an element holds several types");
  const Value value = poison_scalar<Value>(block->poison);
  T result;
  for (size_t i = 0; i < sizeof(T); i += sizeof(Value)) {
    memcpy(reinterpret_cast<char*>(&result) + i, &value, sizeof(Value));
  }
  return result;
}

template <class T, size_t count>
struct LocalArray {
  T elements[count];

  LocalArray() : LocalArray(poison_value<T>(), std::make_index_sequence<count>()) {}
  template <class Index>
  __attribute__((always_inline)) T& operator[](Index index) {
    if (__builtin_expect(uint64_t(int64_t(index)) >= count, 0)) leave_local_array(int64_t(index), count);
    return elements[index];
  }
  operator T*() { return elements; }
  template <class U>
  explicit operator U*() {
    return reinterpret_cast<U*>(elements);
  }

 private:
  template <size_t... I>
  LocalArray(const T& value, std::index_sequence<I...>) : elements{(I, value)...} {}
};

}  // namespace cuda_emulation
