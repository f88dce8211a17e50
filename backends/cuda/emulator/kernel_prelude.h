// The first line of every kernel's unit: compiled once for all of them, where the compiler can.
#include "cuda_emulation.h"
