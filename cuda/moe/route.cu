/*
 * Routing: the experts of each token and the order in which the expert
 * kernels walk them.
 *
 * DESIGN. top: one warp a token, arg-max rounds by shuffles; ties take the
 * lower index. sort: one block an expert counts all assignments (integers, so
 * any order gives the same sums), derives where its expert's run and items
 * begin, and writes its tokens in token order. No block waits for another.
 * route_few does both in one block for up to ROUTE_FEW tokens.
 * The token tiles of the wgmma kernel are listed widest first, since its ring
 * drains when the width changes.
 */
#include "cuda/part/device.cuh"

#include "cuda/moe/moe_tiles.h"

/* One warp: the experts of a token, to memory and to `keep` (or NULL). */
DEV void
choose(const float *logits, int ldl, int tok, int n_experts, int slots,
       float routed_scale, const moe_route &r, uint8_t *keep)
{
    const int lane = threadIdx.x & 31;
    constexpr int PER = MOE_EXPERTS / 32;
    float v[PER], won[MOE_SLOTS];
    int id[MOE_SLOTS];

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
        if (keep) {
#pragma unroll
            for (int k = 0; k < MOE_SLOTS - 1; k++)
                if (k < slots - 1)
                    keep[at + k] = (uint8_t)id[k];
            keep[at + slots - 1] = (uint8_t)n_experts;
        }
    }
}

static __global__ void
__launch_bounds__(128)
top(const float *logits, int ldl, int n, int n_experts, int slots,
    float routed_scale, moe_route r)
{
    const int tok = blockIdx.x * 4 + (threadIdx.x >> 5);
    pdl_trigger();
    pdl_wait();
    if (tok < n)
        choose(logits, ldl, tok, n_experts, slots, routed_scale, r, NULL);
}

/* How n assignments of an expert are cut: parts of `per` tokens. */
DEV void
cut(int n, int width, int *parts, int *per, int *variant)
{
    const bool narrow = width == MOE_NARROW;
    *variant = width == MOE_WIDE ? MOE_NARROW_TILES : 0;
    *per = width > 0 ? width : moe_tile_max(narrow);
    *parts = (n + *per - 1) / *per;
    if (width > 0)
        return;
    if (n == 0)
        return;
    *per = ((n + *parts - 1) / *parts + 7) / 8 * 8;
    while (moe_tile_width(*variant) < *per)
        (*variant)++;
}

/* Sum over the first 256 threads of a block, for every thread. */
DEV int
sum_256(int v, int *part)
{
    v = __reduce_add_sync(~0u, v);
    __syncthreads();
    if ((threadIdx.x & 31) == 0 && threadIdx.x < 256)
        part[threadIdx.x >> 5] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < 8; i++)
        v += part[i];
    return v;
}

static __global__ void
__launch_bounds__(256)
sort(int total, int n_experts, int width, moe_route r)
{
    __shared__ int count[MOE_EXPERTS], warp_n[8];
    const int e = blockIdx.x, tid = threadIdx.x, w = tid >> 5;
    const int lane = tid & 31;

    count[tid] = 0;
    __syncthreads();
    pdl_wait();
    pdl_trigger();  /* late: see cuda/README, "graphs" */
    for (int i = tid; i < total; i += 256)
        atomicAdd(&count[r.id[i]], 1);
    __syncthreads();
    int parts, per, mine, my_parts, my_per, variant;
    cut(count[e], width, &my_parts, &my_per, &mine);
    cut(count[tid], width, &parts, &per, &variant);
    bool ahead = variant > mine || (variant == mine && tid < e);
    int before = sum_256(tid < e ? count[tid] : 0, warp_n);
    int first = sum_256(ahead ? parts : 0, warp_n);
    if (e == 0) {
        int items = sum_256(parts, warp_n);
        int active = sum_256(tid < n_experts - 1 && count[tid] > 0, warp_n);
        if (tid == 0) {
            *r.n_item = items;
            *r.distinct += active;
        }
    }
    for (int k = tid; k < my_parts; k += 256) {
        moe_item it = {e, before + k * my_per,
                       min(my_per, count[e] - k * my_per), mine};
        r.item[first + k] = it;
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

/* Both for few tokens, in one block: experts by warps, then a counting sort
 * in shared memory in which one warp places 32 assignments at a time. */
static __global__ void
__launch_bounds__(1024)
route_few(const float *logits, int ldl, int n, int n_experts, int slots,
          float routed_scale, int width, moe_route r)
{
    __shared__ uint8_t id[ROUTE_FEW * MOE_SLOTS];
    __shared__ int count[MOE_EXPERTS], at[MOE_EXPERTS], warp_n[8], warp_p[8];
    const int tid = threadIdx.x, w = tid >> 5, lane = tid & 31;
    const int total = n * slots;

    if (tid < MOE_EXPERTS)
        count[tid] = 0;
    pdl_wait();
    pdl_trigger();  /* late: see cuda/README, "graphs" */
    for (int tok = w; tok < n; tok += 32)
        choose(logits, ldl, tok, n_experts, slots, routed_scale, r, id);
    __syncthreads();
    for (int i = tid; i < total; i += 1024)
        atomicAdd(&count[id[i]], 1);
    __syncthreads();
    int c = 0, parts = 0, sum_n = 0, sum_p = 0;
    if (tid < 256) {
        c = count[tid];
        parts = (c + width - 1) / width;
        sum_n = c;
        sum_p = parts;
        for (int o = 1; o < 32; o <<= 1) {
            int a = __shfl_up_sync(~0u, sum_n, o);
            int b = __shfl_up_sync(~0u, sum_p, o);
            if (lane >= o) {
                sum_n += a;
                sum_p += b;
            }
        }
        if (lane == 31) {
            warp_n[w] = sum_n;
            warp_p[w] = sum_p;
        }
    }
    int active = __syncthreads_count(c > 0 && tid < n_experts);
    if (tid < 256) {
        for (int k = 0; k < w; k++) {
            sum_n += warp_n[k];
            sum_p += warp_p[k];
        }
        at[tid] = sum_n - c;
        for (int k = 0; k < parts; k++) {
            moe_item it = {tid, sum_n - c + k * width,
                           min(width, c - k * width), 0};
            r.item[sum_p - parts + k] = it;
        }
        if (tid == 255) {
            *r.n_item = sum_p;
            *r.distinct += active;
        }
    }
    __syncthreads();
    if (w != 0)
        return;
    for (int i0 = 0; i0 < total; i0 += 32) {
        int i = i0 + lane, e = i < total ? id[i] : MOE_EXPERTS + lane;
        unsigned same = __match_any_sync(~0u, e);
        int rank = __popc(same & ((1u << lane) - 1)), base = 0;
        if (i < total) {
            base = at[e];
            r.order[base + rank] = i;
            r.position[i] = base + rank;
        }
        __syncwarp();
        if (i < total && rank == 0)
            at[e] = base + __popc(same);
        __syncwarp();
    }
}

extern "C" int
cuda_moe_items(int n, int slots, int n_experts, int width)
{
    int total = n * slots;
    int w = width > 0 ? width : moe_tile_max(width == MOE_NARROW);
    int most = (total + w - 1) / w + n_experts;
    return most < total ? most : total;
}

extern "C" int
cuda_route_few(const float *logits, int ldl, int n, int n_experts, int slots,
               float routed_scale, int width, const struct moe_route *r,
               cudaStream_t s)
{
    if (n_experts > MOE_EXPERTS - 1 || slots > MOE_SLOTS || slots < 2 ||
        slots - 1 > n_experts || n > ROUTE_FEW || width <= 0)
        return cudaErrorInvalidValue;
    return launch<0>(route_few, dim3(1), 1024, s, logits, ldl, n, n_experts,
                     slots, routed_scale, width, *r);
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
