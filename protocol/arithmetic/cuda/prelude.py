"""What every generated source begins with.

A kernel is written in stages, with nothing but shared memory between them: on a GPU a barrier ends each stage. Where
tests compile the same text as C++ for the host (tests/cuda_on_host.py), a stage is a loop over the threads of a block,
and only DEVICE below is replaced. So the host runs the very text that the GPU runs.
"""

from __future__ import annotations

TYPES = """
struct Answers {            // the definition, where binary64 leaves two candidates
  const uint64_t* known;    // pairs, see cupel_exact
  int32_t count;            // of `known`
  int32_t room;             // for entries in `asked`
  uint64_t* asked;          // (opcode << 32) | argument, of those that were not known
  int32_t* missing;         // how many: more than `room` are counted and not kept
};
"""

COMMON = """
// known[2 i] = (opcode << 32) | argument, ascending; known[2 i + 1] = the definition's bits.
DEVICE int32_t cupel_exact(Answers* answers, int32_t opcode, int32_t bits) {
  const uint64_t wanted = ((uint64_t)(uint32_t)opcode << 32) | (uint32_t)bits;
  int32_t low = 0, high = answers->count;
  while (low < high) {
    const int32_t middle = (low + high) >> 1;
    if (answers->known[2 * middle] < wanted) low = middle + 1; else high = middle;
  }
  if (low < answers->count && answers->known[2 * low] == wanted) return (int32_t)answers->known[2 * low + 1];
  const int32_t at = atomicAdd(answers->missing, 1);
  if (at < answers->room) answers->asked[at] = wanted;
  return bits;
}

template <class T> DEVICE T saturated(float x) {  // toward zero; NaN is 0
  const double most = (double)(T)(((uint64_t)1 << (8 * sizeof(T) - 1)) - 1), least = -most - 1.0;
  const double wide = x;
  if (!(wide == wide)) return 0;
  if (sizeof(T) == 8) {
    if (wide >= 9223372036854775808.0) return (T)0x7fffffffffffffffLL;
    if (wide <= -9223372036854775808.0) return (T)(-0x7fffffffffffffffLL - 1);
    return (T)wide;
  }
  return (T)(wide >= most ? most : wide <= least ? least : wide);
}

template <class T> DEVICE T saturated_unsigned(float x) {  // uint8, held as int8
  const double wide = x;
  if (!(wide > 0.0)) return 0;
  return (T)(uint8_t)(wide >= 255.0 ? 255.0 : wide);
}
"""

DEVICE = """
#ifdef __CUDACC_RTC__
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif
#define DEVICE static __device__ __inline__
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads)
#define TABLE static __device__ const
#define SHARED(type, name, count) __shared__ type name[count]
#define STAGE {
#define END_STAGE } __syncthreads();
#define THREAD threadIdx.x
#define THREADS blockDim.x
#define BLOCK ((int64_t)blockIdx.x)
#define BLOCKS ((int64_t)gridDim.x)
// An element of a kernel without stages.
#define FOR_EACH(i, count) \\
  for (int64_t i = BLOCK * THREADS + THREAD; i < (count); i += BLOCKS * THREADS)
DEVICE void add_to(int64_t* cell, int64_t value) { atomicAdd((unsigned long long*)cell, (unsigned long long)value); }
DEVICE void raise_to(int32_t* cell, int32_t value) { atomicMax(cell, value); }
DEVICE void raise_to(uint32_t* cell, uint32_t value) { atomicMax(cell, value); }
DEVICE void raise_to(int64_t* cell, int64_t value) { atomicMax((long long*)cell, (long long)value); }
DEVICE void lower_to(int32_t* cell, int32_t value) { atomicMin(cell, value); }
DEVICE void lower_to(uint32_t* cell, uint32_t value) { atomicMin(cell, value); }
DEVICE void lower_to(int64_t* cell, int64_t value) { atomicMin((long long*)cell, (long long)value); }
// All 32 threads of a warp hold terms of one row: they agree first, and one of them goes to the cell.
#define WARP_TREE(name, type, combine) \\
  DEVICE void name(type* cell, type value) { \\
    for (int n = 16; n; n >>= 1) { \\
      const type other = __shfl_xor_sync(0xffffffffu, value, n); \\
      value = combine; \\
    } \\
    if ((THREAD & 31) == 0) FINISH(cell, value); \\
  }
#define FINISH add_to
WARP_TREE(warp_add_to, int64_t, value + other)
#undef FINISH
#define FINISH raise_to
WARP_TREE(warp_raise_to, int32_t, value > other ? value : other)
WARP_TREE(warp_raise_to, uint32_t, value > other ? value : other)
WARP_TREE(warp_raise_to, int64_t, value > other ? value : other)
#undef FINISH
#define FINISH lower_to
WARP_TREE(warp_lower_to, int32_t, value < other ? value : other)
WARP_TREE(warp_lower_to, uint32_t, value < other ? value : other)
WARP_TREE(warp_lower_to, int64_t, value < other ? value : other)
#undef FINISH
"""


def whole(text: str, before: str = DEVICE) -> str:
    """A source to compile; `before` defines what differs between a GPU and a host."""
    return "\n".join([before, TYPES, COMMON, text])
