"""C++ text around a program in CUDA C++, with which a processor runs it: work-items are fibres."""

from __future__ import annotations

SHIM = r"""
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
/* Groups run one after the other, so that one instance of local memory is enough. */
#define __shared__ static __attribute__((section("fmmloopy_local")))
extern "C" unsigned char __start_fmmloopy_local[] __attribute__((weak));
extern "C" unsigned char __stop_fmmloopy_local[] __attribute__((weak));
struct Triple { unsigned x, y, z; };
static Triple threadIdx, blockIdx, blockDim, gridDim;
static inline double __longlong_as_double(long long x) { double y; memcpy(&y, &x, 8); return y; }
static inline long long __double_as_longlong(double x) { long long y; memcpy(&y, &x, 8); return y; }
static inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
static inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }

namespace emulator {
struct Fibre { ucontext_t context; char *stack; bool ended; int line; Triple item; };
static const long STACK = 1 << 18;
static Fibre *fibres; static int count, current; static bool alone;
static ucontext_t scheduler;
static void (*body)();
static int first_line, second_line;

static void enter()
{
  body();
  fibres[current].ended = true;
  swapcontext(&fibres[current].context, &scheduler);
}

static void barrier(int line)
{
  if (alone)
    return;
  Fibre &fibre = fibres[current];
  fibre.line = line;
  swapcontext(&fibre.context, &scheduler);
  threadIdx = fibre.item;
}

static long coprime(long n)
{
  for (long stride = 37; ; ++stride) {
    long a = n, b = stride;
    while (b) { long const rest = a % b; a = b; b = rest; }
    if (a == 1)
      return stride;
  }
}

/* Upwards, downwards, or scrambled. */
static long place(long k, long n, int order, long stride, long round)
{
  return order == 0 ? k : order == 1 ? n - 1 - k : (k * stride + round * 11) % n;
}

/* Run a group: from barrier to barrier, one work-item after the other. */
static int run_group(int n, int order)
{
  /* What a group leaves in local memory is not there for the next; what nobody has written differs between orders. */
  static int const garbage[3] = {0xFF, 0x00, 0x7E};
  if (__start_fmmloopy_local)
    memset(__start_fmmloopy_local, garbage[order], __stop_fmmloopy_local - __start_fmmloopy_local);
  alone = n == 1;
  if (alone) {
    threadIdx = {0, 0, 0};
    body();
    return 0;
  }
  if (count < n) {
    fibres = (Fibre *) realloc(fibres, n * sizeof(Fibre));
    for (; count < n; ++count)
      fibres[count].stack = (char *) malloc(STACK);
  }
  for (int k = 0; k < n; ++k) {
    Fibre &fibre = fibres[k];
    fibre.ended = false;
    fibre.item = {k % blockDim.x, k / blockDim.x % blockDim.y, k / (blockDim.x * blockDim.y)};
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, enter, 0);
  }
  long const stride = coprime(n);
  for (long left = n, round = 0; left; ++round) {
    int ended = 0, line = 0;
    for (int k = 0; k < n; ++k) {
      current = place(k, n, order, stride, round);
      Fibre &fibre = fibres[current];
      if (fibre.ended)
        continue;
      threadIdx = fibre.item;
      swapcontext(&scheduler, &fibre.context);
      if (fibre.ended) {
        ++ended;
        --left;
        continue;
      }
      if (line && line != fibre.line) {
        first_line = line;
        second_line = fibre.line;
        return 2;
      }
      line = fibre.line;
    }
    if (ended && line) {
      first_line = line;
      return 1;
    }
  }
  return 0;
}

/* Call a kernel as a driver does: an array of pointers to the arguments. */
template<int... I> struct Indices {};
template<int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template<int... I> struct Count<0, I...> { typedef Indices<I...> type; };
template<class... A, int... I> static void call(void (*kernel)(A...), void *const *arguments, Indices<I...>)
{
  kernel(*(A *) arguments[I]...);
}
template<class... A> static void call(void (*kernel)(A...), void *const *arguments)
{
  call(kernel, arguments, typename Count<sizeof...(A)>::type());
}
static void *const *bound;
}
#define __syncthreads() emulator::barrier(__LINE__)
#line 1
"""
"""The beginning of a program: what CUDA C++ has and C++ has not, and the scheduler of work-items."""

LAUNCH = r"""
static void fmmloopy_body() { emulator::call(ENTRY, emulator::bound); }
extern "C" long fmmloopy_local_bytes() { return __stop_fmmloopy_local - __start_fmmloopy_local; }
extern "C" void fmmloopy_lines(int *lines) { lines[0] = emulator::first_line; lines[1] = emulator::second_line; }
extern "C" int fmmloopy_launch(void *const *arguments, unsigned const *groups, unsigned const *items, int order)
{
  emulator::bound = arguments;
  emulator::body = fmmloopy_body;
  gridDim = {groups[0], groups[1], groups[2]};
  blockDim = {items[0], items[1], items[2]};
  long const n = (long) groups[0] * groups[1] * groups[2], stride = emulator::coprime(n);
  for (long k = 0; k < n; ++k) {
    long const group = emulator::place(k, n, order, stride, 0);
    blockIdx.x = group % groups[0];
    blockIdx.y = group / groups[0] % groups[1];
    blockIdx.z = group / ((long) groups[0] * groups[1]);
    int const wrong = emulator::run_group(items[0] * items[1] * items[2], order);
    if (wrong)
      return wrong;
  }
  return 0;
}
"""
"""The end of a program: functions that launch its kernel, with the kernel's name for ENTRY."""
