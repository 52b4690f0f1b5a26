/* A benchmark's hold on instruction sets: CPUID without AVX-512, AVX-VNNI and AMX, and what instructions really run.

   `cap.py` makes of each `cpuid` (0F A2) in a copy of a library the bytes 06 A2, which no x86-64 CPU executes and no
   compiler writes. The signal for it is answered with what the CPU says, less those sets. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

static volatile long samples, wide;

static unsigned char *at(greg_t *registers) {
  return (unsigned char *)registers[REG_RIP];
}

static void answer(int number, siginfo_t *info, void *context) {
  greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
  unsigned leaf = (unsigned)r[REG_RAX], part = (unsigned)r[REG_RCX], a, b, c, d;
  if (at(r)[0] != 0x06 || at(r)[1] != 0xA2) {
    signal(number, SIG_DFL); /* not ours: it faults once more, and ends the process */
    return;
  }
  __cpuid_count(leaf, part, a, b, c, d);
  if (leaf == 7 && part == 0) {
    b &= ~0xDC230000u; /* AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL */
    c &= ~0x00005842u; /* AVX512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ */
    d &= ~0x03C0010Cu; /* AVX512 4VNNIW, 4FMAPS, VP2INTERSECT, FP16; AMX BF16, TILE, INT8 */
  } else if (leaf == 7 && part == 1) {
    a &= ~0x00A00030u; /* AVX-VNNI, AVX512 BF16, AMX FP16, AVX-IFMA */
    d &= ~0x00080530u; /* AVX-VNNI-INT8, AVX-NE-CONVERT, AMX-COMPLEX, AVX-VNNI-INT16, AVX10 */
  }
  r[REG_RAX] = a, r[REG_RBX] = b, r[REG_RCX] = c, r[REG_RDX] = d;
  r[REG_RIP] += 2;
}

static void sample(int number, siginfo_t *info, void *context) {
  ++samples;
  wide += *at(((ucontext_t *)context)->uc_mcontext.gregs) == 0x62; /* the first byte of EVEX codes, in 64 bits of no
                                                                      others: AVX-512, at any width */
}

static void handle(int number, void (*handler)(int, siginfo_t *, void *)) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaction(number, &action, 0);
}

void answer_cpuid(void) { handle(SIGILL, answer); }

void watch(void) {
  samples = wide = 0;
  handle(SIGPROF, sample);
}

long sampled(void) { return samples; }
long sampled_wide(void) { return wide; }
