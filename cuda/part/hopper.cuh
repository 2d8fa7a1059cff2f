/*
 * sm_90a primitives: mbarriers, bulk copies, tensor maps, wgmma fences. Only
 * for the bodies of kernels under HOPPER_CODE; the ring and barrier recipes
 * are in cuda/README.
 */
#pragma once

#include <cuda.h>

#include "cuda/part/device.cuh"

/* True where a kernel body may use sm_90a instructions. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER_CODE 1
#else
#define HOPPER_CODE 0
#endif

#if HOPPER_CODE

DEV void
mbar_init(uint64_t *b, int n)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                 :: "r"(smem_addr(b)), "r"(n) : "memory");
}

DEV void
mbar_init_done(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEV void
mbar_expect(uint64_t *b, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(smem_addr(b)), "r"(bytes) : "memory");
}

DEV void
mbar_arrive(uint64_t *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
                 :: "r"(smem_addr(b)) : "memory");
}

/* For n. */
DEV void
mbar_arrive_n(uint64_t *b, int n)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;"
                 :: "r"(smem_addr(b)), "r"(n) : "memory");
}

/* Waiting for parity 1 on a fresh barrier succeeds at once. */
DEV void
mbar_wait(uint64_t *b, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\n"
                 "W: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 "
                 "p, [%0], %1;\n@p bra D;\nbra W;\nD:\n}\n"
                 :: "r"(smem_addr(b)), "r"(parity) : "memory");
}

DEV void
bulk_copy(void *dst, const void *src, uint32_t bytes, uint64_t *bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::"
                 "complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(smem_addr(dst)), "l"(src), "r"(bytes),
                    "r"(smem_addr(bar)) : "memory");
}

/* Ordinary stores to shared memory before what the copy engine or wgmma does
 * with it; a barrier follows. */
DEV void
fence_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Four 8 x 8 matrices of bf16, transposed; lane 8i + k has the address of row
 * k of matrix i. */
DEV void
stmatrix4_trans(uint32_t addr, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], "
                 "{%1,%2,%3,%4};"
                 :: "r"(addr), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/* A grid barrier's counter; what was stored before its increments is seen. */
DEV unsigned
grid_count(const unsigned *p)
{
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                 : "=r"(v) : "l"(p) : "memory");
    return v;
}

DEV void
tma_load(void *dst, const CUtensorMap *m, int x, int y, uint64_t *bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::"
                 "complete_tx::bytes [%0], [%1, {%2, %3}], [%4];"
                 :: "r"(smem_addr(dst)), "l"(m), "r"(x), "r"(y),
                    "r"(smem_addr(bar)) : "memory");
}

#endif

typedef CUresult (*tensor_map_fn)(CUtensorMap *, CUtensorMapDataType,
                                  cuuint32_t, void *, const cuuint64_t *,
                                  const cuuint64_t *, const cuuint32_t *,
                                  const cuuint32_t *, CUtensorMapInterleave,
                                  CUtensorMapSwizzle, CUtensorMapL2promotion,
                                  CUtensorMapFloatOOBfill);

/* Map of a bf16 [rows, cols] matrix in boxes of 64 columns x box_rows rows
 * with 128-byte swizzle. False when the driver has none. */
static inline bool
tensor_map(CUtensorMap *m, void *p, int cols, int rows, int box_rows)
{
    cudaDriverEntryPointQueryResult found;
    void *fn = NULL;
    cuuint64_t dims[2] = {(cuuint64_t)cols, (cuuint64_t)rows};
    cuuint64_t stride[1] = {(cuuint64_t)cols * 2};
    cuuint32_t box[2] = {64, (cuuint32_t)box_rows}, step[2] = {1, 1};
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                         cudaEnableDefault, &found) !=
            cudaSuccess || fn == NULL)
        return false;
    return ((tensor_map_fn)fn)(m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, p,
                               dims, stride, box, step,
                               CU_TENSOR_MAP_INTERLEAVE_NONE,
                               CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) ==
           CUDA_SUCCESS;
}
