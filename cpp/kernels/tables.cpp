#include "kernels/tables.h"

#include "kernels/families.h"

namespace lowbit::kernels {
namespace {

// A light family's table, made when it is first asked for.
template <class Kernel>
KernelTable<Kernel> light(Kernel LightKernels::* family) {
  static const std::vector<const Kernel*> rows = [family] {
    std::vector<const Kernel*> result;
    for (const LightKernels* kernels : tables.light) result.push_back(&(kernels->*family));
    return result;
  }();
  return rows;
}

template <class Kernel>
Family family(const char* name, KernelTable<Kernel> table) {
  return {name, {table.begin(), table.end()}};
}

}  // namespace

KernelTable<DwconvI8Kernel> dwconv_i8_kernels() { return tables.dwconv_i8; }
KernelTable<GemmF32Kernel> gemm_f32_kernels() { return tables.gemm_f32; }
KernelTable<GemmI1Kernel> gemm_i1_kernels() { return tables.gemm_i1; }
KernelTable<GemmI4Kernel> gemm_i4_kernels() { return tables.gemm_i4; }
KernelTable<GemmI4Kernel> gemm_i2_kernels() { return tables.gemm_i2; }
KernelTable<GemmI8Kernel> gemm_i8_kernels() { return tables.gemm_i8; }
KernelTable<GemmS8Kernel> gemm_s8_kernels() { return tables.gemm_s8; }
KernelTable<PeakKernel> peak_kernels() { return tables.peak; }
KernelTable<SpmmI8Kernel> spmm_i8_kernels() { return tables.spmm_i8; }
KernelTable<WinogradI8Kernel> winograd_i8_kernels() { return tables.winograd_i8; }

KernelTable<AttentionKernel> attention_kernels() { return light(&LightKernels::attention); }
KernelTable<BlendKernel> blend_kernels() { return light(&LightKernels::blend); }
KernelTable<CachedAttentionKernel> cached_attention_kernels() { return light(&LightKernels::cached_attention); }
KernelTable<DwconvF32Kernel> dwconv_f32_kernels() { return light(&LightKernels::dwconv_f32); }
KernelTable<EltwiseKernel> eltwise_kernels() { return light(&LightKernels::eltwise); }
KernelTable<GatherKernel> gather_kernels() { return light(&LightKernels::gather); }
KernelTable<NormKernel> norm_kernels() { return light(&LightKernels::norm); }
KernelTable<PoolKernel> pool_kernels() { return light(&LightKernels::pool); }
KernelTable<RnnKernel> rnn_kernels() { return light(&LightKernels::rnn); }

std::vector<Family> families() {
  return {
      family("gemm_i8", gemm_i8_kernels()),
      family("gemm_i2", gemm_i2_kernels()),
      family("spmm_i8", spmm_i8_kernels()),
      family("winograd_i8", winograd_i8_kernels()),
      family("gemm_i1", gemm_i1_kernels()),
      family("gemm_i4", gemm_i4_kernels()),
      family("gemm_s8", gemm_s8_kernels()),
      family("dwconv_i8", dwconv_i8_kernels()),
      family("gemm_f32", gemm_f32_kernels()),
      family("dwconv_f32", dwconv_f32_kernels()),
      family("attention", attention_kernels()),
      family("cached_attention", cached_attention_kernels()),
      family("pool", pool_kernels()),
      family("norm", norm_kernels()),
      family("rnn", rnn_kernels()),
      family("blend", blend_kernels()),
      family("gather", gather_kernels()),
      family("eltwise", eltwise_kernels()),
      family("peak", peak_kernels()),
  };
}

}  // namespace lowbit::kernels
