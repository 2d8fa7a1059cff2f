/*
 * Routing: the experts of each token and the order in which the expert
 * kernels walk them.
 *
 * DESIGN. top: one warp a token, arg-max rounds by shuffles; ties take the
 * lower index. sort: one block an expert counts all assignments (integers, so
 * any order gives the same sums), derives where its expert's run and items
 * begin, and writes its tokens in token order. No block waits for another.
 * The token tiles of the wgmma kernel are listed widest first, since its ring
 * drains when the width changes.
 */
#include "cuda/device.cuh"

#include "cuda/moe_tiles.h"

static __global__ void
__launch_bounds__(128)
top(const float *logits, int ldl, int n, int n_experts, int slots,
    float routed_scale, moe_route r)
{
    const int tok = blockIdx.x * 4 + (threadIdx.x >> 5);
    const int lane = threadIdx.x & 31;
    constexpr int PER = MOE_EXPERTS / 32;
    float v[PER], won[MOE_SLOTS];
    int id[MOE_SLOTS];

    pdl_trigger();
    pdl_wait();
    if (tok >= n)
        return;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        int e = i * 32 + lane;
        v[i] = e < n_experts ? logits[(size_t)tok * ldl + e] : -INFINITY;
    }
    float sum = 0;
#pragma unroll
    for (int k = 0; k < MOE_SLOTS - 1; k++) {
        if (k >= slots - 1)
            break;
        float best = -INFINITY;
        int at = 1 << 20;
#pragma unroll
        for (int i = 0; i < PER; i++)
            if (v[i] > best) {
                best = v[i];
                at = i * 32 + lane;
            }
        for (int o = 16; o; o >>= 1) {
            float b = __shfl_xor_sync(~0u, best, o);
            int a = __shfl_xor_sync(~0u, at, o);
            if (b > best || (b == best && a < at)) {
                best = b;
                at = a;
            }
        }
        if (at >= n_experts)    /* only NaN is left */
            at = k;
#pragma unroll
        for (int i = 0; i < PER; i++)
            if (i * 32 + lane == at)
                v[i] = -INFINITY;
        id[k] = at;
        won[k] = k == 0 ? 1.0f : __expf(best - won[MOE_SLOTS - 1]);
        if (k == 0)
            won[MOE_SLOTS - 1] = best;
        sum += won[k];
    }
    if (lane == 0) {
        size_t at = (size_t)tok * slots;
#pragma unroll
        for (int k = 0; k < MOE_SLOTS - 1; k++)
            if (k < slots - 1) {
                r.id[at + k] = (uint8_t)id[k];
                r.weight[at + k] = won[k] / sum * routed_scale;
            }
        r.id[at + slots - 1] = (uint8_t)n_experts;
        r.weight[at + slots - 1] = 1;
    }
}

/* How n assignments of an expert are cut: parts of `per` tokens. */
DEV void
cut(int n, int width, int *parts, int *per, int *variant)
{
    *variant = 0;
    *per = width;
    if (width > 0) {
        *parts = (n + width - 1) / width;
        return;
    }
    *parts = (n + MOE_TILE_MAX - 1) / MOE_TILE_MAX;
    if (n == 0)
        return;
    *per = ((n + *parts - 1) / *parts + 7) / 8 * 8;
    while (moe_tile_width(*variant) < *per)
        (*variant)++;
}

static __global__ void
__launch_bounds__(256)
sort(int total, int n_experts, int width, moe_route r)
{
    __shared__ int count[MOE_EXPERTS];
    __shared__ int before, items, first_item, warp_n[8];
    const int e = blockIdx.x, tid = threadIdx.x, w = tid >> 5;
    const int lane = tid & 31;

    pdl_trigger();
    count[tid] = 0;
    __syncthreads();
    pdl_wait();
    for (int i = tid; i < total; i += 256)
        atomicAdd(&count[r.id[i]], 1);
    __syncthreads();
    if (tid == 0) {
        int parts, per, mine, variant, active = 0;
        before = items = first_item = 0;
        cut(count[e], width, &parts, &per, &mine);
        for (int k = 0; k < n_experts; k++) {
            if (k < e)
                before += count[k];
            active += k < n_experts - 1 && count[k] > 0;
            cut(count[k], width, &parts, &per, &variant);
            items += parts;
            if (variant > mine || (variant == mine && k < e))
                first_item += parts;
        }
        if (e == 0) {
            *r.n_item = items;
            *r.distinct += active;
        }
        cut(count[e], width, &parts, &per, &variant);
        for (int k = 0; k < parts; k++) {
            moe_item it = {e, before + k * per, min(per, count[e] - k * per),
                           variant};
            r.item[first_item + k] = it;
        }
    }
    __syncthreads();
    int base = before;
    for (int i0 = 0; i0 < total; i0 += 256) {
        int i = i0 + tid;
        bool hit = i < total && r.id[i] == e;
        unsigned votes = __ballot_sync(~0u, hit);
        __syncthreads();
        if (lane == 0)
            warp_n[w] = __popc(votes);
        __syncthreads();
        int at = base + __popc(votes & ((1u << lane) - 1));
        for (int k = 0; k < 8; k++) {
            if (k < w)
                at += warp_n[k];
            base += warp_n[k];
        }
        if (hit) {
            r.order[at] = i;
            r.position[i] = at;
        }
    }
}

extern "C" int
cuda_moe_items(int n, int slots, int n_experts, int width)
{
    int total = n * slots, w = width > 0 ? width : MOE_TILE_MAX;
    int most = (total + w - 1) / w + n_experts;
    return most < total ? most : total;
}

extern "C" int
cuda_route_top(const float *logits, int ldl, int n, int n_experts, int slots,
               float routed_scale, const struct moe_route *r, cudaStream_t s)
{
    if (n_experts > MOE_EXPERTS - 1 || slots > MOE_SLOTS || slots < 2 ||
        slots - 1 > n_experts)
        return cudaErrorInvalidValue;
    return launch<0>(top, dim3((n + 3) / 4), 128, s, logits, ldl, n,
                     n_experts, slots, routed_scale, *r);
}

extern "C" int
cuda_route_sort(int n, int slots, int n_experts, int width,
                const struct moe_route *r, cudaStream_t s)
{
    if (n_experts > MOE_EXPERTS)
        return cudaErrorInvalidValue;
    return launch<0>(sort, dim3(n_experts), 256, s, n * slots, n_experts,
                     width, *r);
}
