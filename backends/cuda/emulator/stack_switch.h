// Switching between the stacks of fibers: assembly on x86-64, ucontext elsewhere.
#pragma once
#include <stddef.h>

#if defined(__x86_64__) && !defined(CUDA_EMULATION_UCONTEXT)

struct MachineContext {
  void* stack_pointer;
};

// Saves the callee-saved registers on the old stack and takes them from the new one.
extern "C" void cuda_emulation_switch(void** save, void* to);
asm(R"(
.text
.local cuda_emulation_switch
.type cuda_emulation_switch,@function
cuda_emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulation_switch,.-cuda_emulation_switch
)");

static inline void switch_stack(MachineContext& from, MachineContext& to) {
  cuda_emulation_switch(&from.stack_pointer, to.stack_pointer);
}

// `entry` starts on the stack [base, base + bytes) at the first switch and never returns.
static inline void prepare_stack(MachineContext& machine, char* base, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(base + bytes);
  *--top = nullptr;   // return address of `entry`: aligns the stack as a call would
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  machine.stack_pointer = top;
}

#else

#include <ucontext.h>

struct MachineContext {
  ucontext_t state;
};

static inline void switch_stack(MachineContext& from, MachineContext& to) { swapcontext(&from.state, &to.state); }

static inline void prepare_stack(MachineContext& machine, char* base, size_t bytes, void (*entry)()) {
  getcontext(&machine.state);
  machine.state.uc_stack.ss_sp = base;
  machine.state.uc_stack.ss_size = bytes;
  machine.state.uc_link = nullptr;
  makecontext(&machine.state, entry, 0);
}

#endif
