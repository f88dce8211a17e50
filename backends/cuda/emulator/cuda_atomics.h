// Atomic functions of CUDA C: blocks run on several OS threads, so these are real atomics.
#pragma once

namespace cuda_emulation {

template <size_t bytes>
struct Word;
template <>
struct Word<2> {
  using type = uint16_t;
};
template <>
struct Word<4> {
  using type = uint32_t;
};
template <>
struct Word<8> {
  using type = uint64_t;
};

// Replaces *address by update(*address), whatever the type; returns the old value.
template <class T, class F>
CUDA_EMULATION_UNCHECKED inline T atomic_update(T* address, F update, int site) {
  note_access(address, sizeof(T), AccessKind::atomic, site);
  using Bits = typename Word<sizeof(T)>::type;
  auto* word = reinterpret_cast<Bits*>(address);
  Bits old_bits = __atomic_load_n(word, __ATOMIC_RELAXED), new_bits;
  T value;
  do {
    memcpy(static_cast<void*>(&value), &old_bits, sizeof(T));
    const T updated = update(value);
    memcpy(&new_bits, static_cast<const void*>(&updated), sizeof(T));
  } while (!__atomic_compare_exchange_n(word, &old_bits, new_bits, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return value;
}

}  // namespace cuda_emulation

template <class T, class V>
inline T atomicAdd(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return T(old + T(value)); }, site);
}
template <class T, class V>
inline T atomicSub(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return T(old - T(value)); }, site);
}
template <class T, class V>
inline T atomicMax(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return old < T(value) ? T(value) : old; }, site);
}
template <class T, class V>
inline T atomicMin(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return T(value) < old ? T(value) : old; }, site);
}
template <class T, class V>
inline T atomicAnd(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return T(old & T(value)); }, site);
}
template <class T, class V>
inline T atomicOr(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return T(old | T(value)); }, site);
}
template <class T, class V>
inline T atomicXor(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return T(old ^ T(value)); }, site);
}
template <class T, class V>
inline T atomicExch(T* address, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T) { return T(value); }, site);
}
template <class T, class C, class V>
inline T atomicCAS(T* address, C compare, V value, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](T old) { return old == T(compare) ? T(value) : old; }, site);
}
static inline unsigned atomicInc(unsigned* address, unsigned limit, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](unsigned old) { return old >= limit ? 0u : old + 1; }, site);
}
static inline unsigned atomicDec(unsigned* address, unsigned limit, int site = __builtin_LINE()) {
  return cuda_emulation::atomic_update(address, [=](unsigned old) { return old == 0 || old > limit ? limit : old - 1; }, site);
}
