/*
 * The experts of one layer for up to about 200 tokens in one persistent
 * launch: gate+up, SiLU, a grid barrier, down (sm_90a, NVFP4). The shared
 * expert, whose items are the last, may be left to moe_shared.cu.
 *
 * DESIGN. All (item, pair of row tiles) in address order are one list, cut
 * into equal contiguous shares, one a block: perfect balance whatever the
 * routing, and a block meets few items, so the activations of the current one
 * stay in registers as B fragments. Gate and up of the shared expert are a
 * list of their own, which is known before routing: the launch starts beside
 * the routing list, which lets it do so only when the norm has ended, and
 * waits for that list when its first products are under way. Per block:
 *   16 consumer warps  two teams of 8. Warp w of a team owns a K slice of 512
 *                      (of down: slice w % 4 of row tile 2p + w / 4), for
 *                      which there is a ring; the teams take its units in
 *                      turn. One team alone is held up by the latency of
 *                      unpacking and adding, not by their rate.
 *   1 epilogue warp    adds the slices in a fixed order through 4 buffers, so
 *                      consumers never wait for each other. Every lane arrives
 *                      for what it wrote or read there.
 *   1 producer warp    lane r feeds ring r with whole units by bulk copies; it
 *                      runs on into down before the grid barrier opens.
 *   1 warp             reads the list, and which rows the block's items are.
 * Consumers have more registers than the other warps. Bound by memory: 14.16 MB
 * an active expert; measured in the README.
 */
#include "cuda/part/hopper.cuh"

#define DIM 4096
#define HIDDEN 2048
#define PAIRS (HIDDEN / 16)   /* of row tiles of an item, up and down */
static_assert(PAIRS == DIM / 32, "one count for both");
#define TEAMS 2               /* of 8 consumer warps */
#define WARPS (8 * TEAMS + 4)
#define STAGES 4
#define RED 4                 /* buffers of partial sums */
static_assert(STAGES % TEAMS == 0 && RED % TEAMS == 0,
              "a team meets every turn of what it waits for");
#define REDF 320              /* floats a warp leaves a pair: 2 tiles x 8 x 20 */
#define MAX_ITEMS 256
#define ROWS 32               /* items that a block meets at most */
#define SM_RED (8 * STAGES * UNIT)
#define SM_MID (SM_RED + RED * 8 * REDF * 4)

struct mid {
    const char *w13, *w2;
    uint64_t stride13, stride2;
    const float *scale13, *scale2;
    const bf16 *x;
    bf16 *h, *y;
    const int *order;
    const moe_item *item;
    const int *n_item;
    unsigned *barrier;
    int shared;               /* items of the shared expert that are ours */
    int skip;                 /* that are not */
    int n, n_experts, slots;
};

#if HOPPER_CODE

struct mid_shared {
    uint64_t full[8][STAGES], empty[8][STAGES];
    uint64_t red_full[RED], red_empty[RED], opened, listed, rows;
    int n_item;
    moe_item item[MAX_ITEMS];
    int row[ROWS][8];         /* of x, of the block's items by k % ROWS */
};

/* What the roles walk through, in this order; a grid barrier before DOWN. */
enum { SHARED_UP, ROUTED_UP, DOWN };

/* This block's pairs of a phase. Of all but the first, when the list is
 * there. */
DEV void
block_share(const mid &a, const mid_shared *sh, int phase, int &p0, int &p1)
{
    const int items = phase == SHARED_UP ? a.shared
                      : phase == ROUTED_UP ? sh->n_item - a.shared
                      : sh->n_item;
    const int pairs = items * PAIRS;
    p0 = (int)((long long)pairs * blockIdx.x / gridDim.x);
    p1 = (int)((long long)pairs * (blockIdx.x + 1) / gridDim.x);
}

/* Item k of a phase. */
DEV moe_item
item_of(const mid &a, const mid_shared *sh, int phase, int k)
{
    if (phase != SHARED_UP)
        return sh->item[k];
    moe_item it = {a.n_experts - 1, a.n * (a.slots - 1) + 8 * k,
                   min(8, a.n - 8 * k), 0};
    return it;
}

/* A warp reads the list for its block, then the rows of the block's items. */
DEV void
read_list(const mid &a, mid_shared *sh)
{
    const int lane = threadIdx.x & 31;
    int p0, p1;
    pdl_wait();
    const int n = *(volatile const int *)a.n_item - a.skip;
    for (int i = lane; i < n; i += 32)
        sh->item[i] = a.item[i];
    if (lane == 0)
        sh->n_item = n;
    mbar_arrive(&sh->listed);
    __syncwarp();
    block_share(a, sh, ROUTED_UP, p0, p1);
    for (int i = p0 / PAIRS * 8 + lane; i < (p1 + PAIRS - 1) / PAIRS * 8;
         i += 32) {
        const moe_item it = sh->item[i / 8];
        if (i % 8 < it.n)
            sh->row[i / 8 % ROWS][i % 8] = a.order[it.first + i % 8] /
                                           a.slots;
    }
    mbar_arrive(&sh->rows);
}

DEV void
produce(const mid &a, mid_shared *sh, char *ring)
{
    const int lane = threadIdx.x & 31;
    int st = 0, ph = 0, p0, p1;
    char *mine = ring + (size_t)lane * STAGES * UNIT;
    for (int phase = 0; phase < 3; phase++) {
        const int down = phase == DOWN;
        if (phase == ROUTED_UP)
            mbar_wait(&sh->listed, 0);
        block_share(a, sh, phase, p0, p1);
        for (int p = p0; p < p1 && lane < 8; p++) {
            const int e = item_of(a, sh, phase, p / PAIRS).expert;
            const int q = p % PAIRS;
            const char *src = down
                ? a.w2 + e * a.stride2 + (size_t)(q * 8 + lane) * UNIT
                : a.w13 + e * a.stride13 + (size_t)(q * 16 + lane) * UNIT;
            for (int u = down; u < 2; u++) {
                mbar_wait(&sh->empty[lane][st], ph ^ 1);
                mbar_expect(&sh->full[lane][st], UNIT);
                bulk_copy(mine + st * UNIT, src, UNIT, &sh->full[lane][st]);
                src += 8 * UNIT;
                if (++st == STAGES) {
                    st = 0;
                    ph ^= 1;
                }
            }
        }
    }
}

DEV float4
add4(float4 a, float4 b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* gate+up: lane (g token, t) has hidden units 4t .. 4t + 3 of the pair. */
DEV void
finish_up(const mid &a, const moe_item &it, int q, const float *r, int g,
          int t)
{
    float4 gate = make_float4(0, 0, 0, 0), up = gate;
#pragma unroll 4
    for (int k = 0; k < 8; k++) {
        const float *s = r + k * REDF + (t >> 1) * 160 + g * 20 + 4 * (t & 1);
        gate = add4(gate, *(const float4 *)s);
        up = add4(up, *(const float4 *)(s + 8));
    }
    if (g >= it.n)
        return;
    const float sg = a.scale13[2 * it.expert];
    const float su = a.scale13[2 * it.expert + 1];
    uint2 v;
    v.x = bf_pack(silu(gate.x * sg) * (up.x * su),
                  silu(gate.y * sg) * (up.y * su));
    v.y = bf_pack(silu(gate.z * sg) * (up.z * su),
                  silu(gate.w * sg) * (up.w * su));
    *(uint2 *)(a.h + (size_t)(it.first + g) * HIDDEN + q * 16 + 4 * t) = v;
}

/* down: lane has rows 4t .. 4t + 3 of both tiles; four slices each. */
DEV void
finish_down(const mid &a, const moe_item &it, int q, const float *r, int g,
            int t)
{
    float4 v[2];
    v[0] = v[1] = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[h] = add4(v[h], *(const float4 *)(r + (4 * h + k) * REDF +
                                                g * 20 + 4 * t));
    if (g >= it.n)
        return;
    const float s = a.scale2[it.expert];
    bf16 *y = a.y + (size_t)(it.first + g) * DIM + q * 32 + 4 * t;
#pragma unroll
    for (int k = 0; k < 2; k++)
        *(uint2 *)(y + 16 * k) =
            make_uint2(bf_pack(v[k].x * s, v[k].y * s),
                       bf_pack(v[k].z * s, v[k].w * s));
}

/* All blocks' h is written when this returns; lane 0 of one warp a block. */
DEV void
grid_barrier(unsigned *count)
{
    __threadfence();
    unsigned old = atomicAdd(count, 1);
    unsigned target = old - old % gridDim.x + gridDim.x;
    while ((int)(grid_count(count) - target) < 0) {
    }
}

DEV void
epilogue(const mid &a, mid_shared *sh, const float *red)
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    int rb = 0, rp = 0, p0, p1;
    for (int phase = 0; phase < 3; phase++) {
        if (phase == ROUTED_UP)
            mbar_wait(&sh->listed, 0);
        if (phase == DOWN) {
            __syncwarp();
            if (lane == 0) {
                grid_barrier(a.barrier);
                mbar_arrive(&sh->opened);
            }
            __syncwarp();
        }
        block_share(a, sh, phase, p0, p1);
        for (int p = p0; p < p1; p++) {
            const moe_item it = item_of(a, sh, phase, p / PAIRS);
            const float *r = red + (size_t)rb * 8 * REDF;
            mbar_wait(&sh->red_full[rb], rp);
            if (phase == DOWN)
                finish_down(a, it, p % PAIRS, r, g, t);
            else
                finish_up(a, it, p % PAIRS, r, g, t);
            mbar_arrive(&sh->red_empty[rb]);
            if (++rb == RED) {
                rb = 0;
                rp ^= 1;
            }
        }
    }
}

/* B fragments of item k's tokens for this warp's slice. */
DEV void
load_tokens(const mid &a, const mid_shared *sh, int phase, int k, int w,
            uint32_t (&xr)[8][8])
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const moe_item it = item_of(a, sh, phase, k);
    const bool on = g < it.n;
    const bf16 *x = a.x;
    if (on && phase == DOWN)
        x = a.h + (size_t)(it.first + g) * HIDDEN + (w & 3) * 512;
    else if (on && phase == SHARED_UP)
        x = a.x + (size_t)(8 * k + g) * DIM + w * 512;
    else if (on)
        x = a.x + (size_t)sh->row[k % ROWS][g] * DIM + w * 512;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint4 b = make_uint4(0, 0, 0, 0), c = b;
        if (on) {
            const uint4 *p = (const uint4 *)(x + 64 * i + 16 * t);
            b = __ldcg(p);
            c = __ldcg(p + 1);
        }
        xr[i][0] = b.x;
        xr[i][1] = b.y;
        xr[i][2] = b.z;
        xr[i][3] = b.w;
        xr[i][4] = c.x;
        xr[i][5] = c.y;
        xr[i][6] = c.z;
        xr[i][7] = c.w;
    }
}

DEV void
unit_product(const char *unit, const uint32_t (&xr)[8][8], float *q)
{
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const char *c = unit + lane * 16;
    const uint4 sc = *(const uint4 *)(c + 4096);
    const uint32_t sw[4] = {sc.x, sc.y, sc.z, sc.w};
    float d[2][4] = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint4 v = *(const uint4 *)(c + i * 512);
        const uint32_t word[4] = {v.x, v.y, v.z, v.w};
        const uint32_t lo = fp4_scale(sw[i / 2], (i & 1) * 2);
        const uint32_t hi = fp4_scale(sw[i / 2], (i & 1) * 2 + 1);
#pragma unroll
        for (int s = 0; s < 4; s++) {
            uint32_t f[4];
            fp4_frag(word[s], lo, hi, f);
            mma16816(d[s & 1], f, xr[i][2 * s], xr[i][2 * s + 1]);
        }
    }
    q[2 * t * 20 + g] = d[0][0] + d[1][0];
    q[(2 * t + 1) * 20 + g] = d[0][1] + d[1][1];
    q[2 * t * 20 + g + 8] = d[0][2] + d[1][2];
    q[(2 * t + 1) * 20 + g + 8] = d[0][3] + d[1][3];
}

/* Units of a ring in turn are for one team, then the other: of a pair of gate
 * and up one each, of down every other pair. */
DEV void
consume(const mid &a, mid_shared *sh, const char *ring, float *red)
{
    const int w = (threadIdx.x >> 5) % 8, team = threadIdx.x / 256;
    const int lane = threadIdx.x & 31;
    const char *mine = ring + (size_t)w * STAGES * UNIT;
    unsigned unit = team, pair = 0; /* of the block, so far */
#pragma unroll 1
    for (int phase = 0; phase < 3; phase++) {
        const int down = phase == DOWN;
        uint32_t xr[8][8];
        int cur = -1, p, p1;
        if (phase == ROUTED_UP)
            mbar_wait(&sh->rows, 0);
        if (down)
            mbar_wait(&sh->opened, 0);
        block_share(a, sh, phase, p, p1);
        const unsigned end = pair + p1 - p;
        if (down)
            p += team, pair += team;
#pragma unroll 1
        for (; p < p1; p += 1 + down) {
            if (p / PAIRS != cur) {
                cur = p / PAIRS;
                load_tokens(a, sh, phase, cur, w, xr);
            }
            const unsigned st = unit % STAGES, rb = pair % RED;
            mbar_wait(&sh->red_empty[rb], (pair / RED + 1) % 2);
            mbar_wait(&sh->full[w][st], unit / STAGES % 2);
            unit_product(mine + st * UNIT, xr,
                         red + (rb * 8 + w) * REDF + (down ? 0 : team) * 160);
            __syncwarp();
            if (lane == 0)
                mbar_arrive(&sh->empty[w][st]);
            mbar_arrive_n(&sh->red_full[rb], 1 + down);
            unit += TEAMS;
            pair += 1 + down;
        }
        pair = end;
    }
}

#endif

static __global__ void
__launch_bounds__(WARPS * 32, 1)
moe_mid(const __grid_constant__ mid a)
{
#if HOPPER_CODE
    extern __shared__ __align__(128) char sm[];
    __shared__ mid_shared sh;
    const int tid = threadIdx.x, w = tid >> 5;
    float *red = (float *)(sm + SM_RED);
    pdl_trigger();
    if (tid < 8 * STAGES) {
        mbar_init(&sh.full[tid % 8][tid / 8], 1);
        mbar_init(&sh.empty[tid % 8][tid / 8], 1);
        mbar_init_done();
    }
    if (tid == WARPS * 32 - 1) {
        for (int i = 0; i < RED; i++) {
            mbar_init(&sh.red_full[i], 256 * TEAMS);
            mbar_init(&sh.red_empty[i], 32);
        }
        mbar_init(&sh.opened, 1);
        mbar_init(&sh.listed, 32);
        mbar_init(&sh.rows, 32);
        mbar_init_done();
    }
    __syncthreads();
    if (w >= 8 * TEAMS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 64;");
        if (w == 8 * TEAMS + 2)
            read_list(a, &sh);
        else if (w == 8 * TEAMS + 1)
            produce(a, &sh, sm);
        else if (w == 8 * TEAMS)
            epilogue(a, &sh, red);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 104;");
        consume(a, &sh, sm, red);
    }
#endif
}

extern "C" bool
cuda_moe_mid_fits(const struct moe *m)
{
    return m->layout == LAYOUT_NVFP4 && m->dim == DIM && m->hidden == HIDDEN
           && cuda_moe_items(m->n, m->slots, m->n_experts, 8) <= MAX_ITEMS;
}

extern "C" int
cuda_moe_mid(const struct moe *m, bool shared, unsigned *barrier, int n_sm,
             cudaStream_t s)
{
    if (!cuda_moe_mid_fits(m) || (ROWS - 2) * n_sm < MAX_ITEMS)
        return cudaErrorInvalidValue;
    mid a = {};
    a.w13 = (const char *)m->w13;
    a.w2 = (const char *)m->w2;
    a.stride13 = m->stride13;
    a.stride2 = m->stride2;
    a.scale13 = m->scale13;
    a.scale2 = m->scale2;
    a.x = (const bf16 *)m->x;
    a.h = (bf16 *)m->h;
    a.y = (bf16 *)m->y;
    a.order = m->route.order;
    a.item = m->route.item;
    a.n_item = m->route.n_item;
    a.barrier = barrier;
    a.shared = shared ? (m->n + 7) / 8 : 0;
    a.skip = shared ? 0 : (m->n + 7) / 8;
    a.n = m->n;
    a.n_experts = m->n_experts;
    a.slots = m->slots;
    /* Not cooperative, which would wait for the launch before to end. All
     * blocks are resident before they meet all the same: there is one an SM,
     * what runs before them ends without them, and what comes behind them
     * starts when all of them have. */
    return launch_ex<SM_MID, true>(moe_mid, dim3(n_sm), WARPS * 32, s, a);
}
