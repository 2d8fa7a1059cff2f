/*
 * Sampling and log-probabilities, one block a row of logits.
 *
 * DESIGN. The rules are those of the CPU back end (cpu/sample.c): penalties,
 * bias, mask, temperature, top_k, top_p, min_p, and the same counter-based
 * uniform number inverts the same cumulative sum, so both draw the same ids
 * but for rounding. Processed logits go to a copy; the row stays as it is.
 *   no cut        sums of 32 parts in id order, of the slices of one part, and
 *                 of the ids of one slice find the id.
 *   top_k, top_p  a histogram of the distance to the largest logit picks a
 *                 few thousand candidates, which are sorted in shared memory;
 *                 when they hold enough ids or mass, the rest cannot matter.
 *   flat rows     otherwise the cut is found by bisection over the values
 *                 (ids equal to the last one kept are kept as well).
 * Sums are in double and in a fixed order. Nothing leaves the device but what
 * is asked for.
 */
#include "cuda/part/device.cuh"

#include "backend/backend.h"

#define NTH 1024
#define BINS 2048             /* a 64th of a unit of logit each */
#define CAND 4096

struct shared {
    float val[CAND];
    int id[CAND];
    int hist[BINS];
    double sum[33];
    float top[33];
    int at[33];
    int n, cut, found;
};

DEV double
sum_all(double v, shared *sh)
{
    for (int o = 16; o; o >>= 1)
        v += __shfl_xor_sync(~0u, v, o);
    __syncthreads();
    if ((threadIdx.x & 31) == 0)
        sh->sum[threadIdx.x >> 5] = v;
    __syncthreads();
    v = 0;
    for (int i = 0; i < NTH / 32; i++)
        v += sh->sum[i];
    return v;
}

/* Largest value and its lowest id, for every thread. */
DEV void
max_all(float &v, int &id, shared *sh)
{
    for (int o = 16; o; o >>= 1) {
        float b = __shfl_xor_sync(~0u, v, o);
        int i = __shfl_xor_sync(~0u, id, o);
        if (b > v || (b == v && i < id)) {
            v = b;
            id = i;
        }
    }
    __syncthreads();
    if ((threadIdx.x & 31) == 0) {
        sh->top[threadIdx.x >> 5] = v;
        sh->at[threadIdx.x >> 5] = id;
    }
    __syncthreads();
    v = sh->top[0];
    id = sh->at[0];
    for (int i = 1; i < NTH / 32; i++)
        if (sh->top[i] > v || (sh->top[i] == v && sh->at[i] < id)) {
            v = sh->top[i];
            id = sh->at[i];
        }
}

DEV bool
is_nan(float4 v)
{
    return isnan(v.x) || isnan(v.y) || isnan(v.z) || isnan(v.w);
}

/* Of 4 logits (the row is aligned and a multiple of 16 long): the largest,
 * the lowest id at a tie. */
DEV void
max_of(float4 v, int i, float &top, int &id)
{
    const float f[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (f[k] > top) {
            top = f[k];
            id = i + k;
        }
}

/* The largest, and whether there is one that is not a number. */
DEV bool
find_max(const float *p, int vocab, float &top, int &id, shared *sh)
{
    bool nan = false;
    top = -INFINITY;
    id = 0x7fffffff;
#pragma unroll 8
    for (int i = threadIdx.x * 4; i < vocab; i += NTH * 4) {
        const float4 v = *(const float4 *)(p + i);
        nan |= is_nan(v);
        max_of(v, i, top, id);
    }
    max_all(top, id, sh);
    return __syncthreads_or(nan);
}

DEV bool
any_nan(const float *p, int vocab)
{
    bool nan = false;
#pragma unroll 8
    for (int i = threadIdx.x * 4; i < vocab; i += NTH * 4)
        nan |= is_nan(*(const float4 *)(p + i));
    return __syncthreads_or(nan);
}

DEV double
sum_exp(const float *p, int vocab, float top, float min_p, shared *sh)
{
    double s = 0;
    for (int i = threadIdx.x; i < vocab; i += NTH) {
        float w = expf(p[i] - top);
        if (w >= min_p)
            s += w;
    }
    return sum_all(s, sh);
}

DEV uint64_t
mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

DEV double
uniform(uint64_t seed, uint32_t index)
{
    uint64_t key = mix(seed + 0x9E3779B97F4A7C15);
    return (double)(mix(key + ((uint64_t)index + 1) * 0x9E3779B97F4A7C15) >>
                    11) * 0x1p-53;
}

DEV int
bin_of(float top, float v)
{
    float d = (top - v) * 64.0f;
    return d < BINS - 1 ? (int)d : BINS - 1;
}

/* Inclusive prefix sum over the block of one int a thread. */
DEV int
scan_all(int v, shared *sh)
{
    const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
    for (int o = 1; o < 32; o <<= 1) {
        int u = __shfl_up_sync(~0u, v, o);
        if (lane >= o)
            v += u;
    }
    __syncthreads();
    if (lane == 31)
        sh->at[w] = v;
    __syncthreads();
    for (int i = 0; i < w; i++)
        v += sh->at[i];
    return v;
}

DEV bool
stands_before(float a, int i, float b, int j)
{
    return a > b || (a == b && i < j);
}

/* Sorts the n candidates, largest first, ties by id. */
DEV void
sort_candidates(shared *sh, int n)
{
    int size = 32;
    while (size < n)
        size *= 2;
    for (int i = n + threadIdx.x; i < size; i += NTH) {
        sh->val[i] = -INFINITY;
        sh->id[i] = 0x7fffffff;
    }
    for (int k = 2; k <= size; k *= 2)
        for (int j = k / 2; j > 0; j /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < size; i += NTH) {
                int o = i ^ j;
                if (o <= i)
                    continue;
                bool down = (i & k) == 0;
                if (stands_before(sh->val[o], sh->id[o], sh->val[i],
                                  sh->id[i]) == down) {
                    float v = sh->val[i];
                    int d = sh->id[i];
                    sh->val[i] = sh->val[o];
                    sh->id[i] = sh->id[o];
                    sh->val[o] = v;
                    sh->id[o] = d;
                }
            }
        }
    __syncthreads();
}

/* Gathers the `need` or more largest logits, sorted, into sh. Returns how
 * many (all that are not -inf when there are fewer), or -1 when more than
 * CAND would be needed. */
DEV int
gather_top(const float *p, int vocab, float top, int need, shared *sh)
{
    const int tid = threadIdx.x;
    for (int i = tid; i < BINS; i += NTH)
        sh->hist[i] = 0;
    if (tid == 0) {
        sh->n = 0;
        sh->cut = BINS - 1;
    }
    __syncthreads();
    for (int i = tid; i < vocab; i += NTH)
        if (p[i] > -INFINITY)
            atomicAdd(&sh->hist[bin_of(top, p[i])], 1);
    __syncthreads();
    int a = sh->hist[2 * tid], b = sh->hist[2 * tid + 1];
    int after = scan_all(a + b, sh), start = after - a - b;
    if (start < need && after >= need)
        sh->cut = start + a >= need ? 2 * tid : 2 * tid + 1;
    __syncthreads();
    if (sh->cut / 2 == tid)
        sh->found = sh->cut & 1 ? after : start + a;
    __syncthreads();
    if (sh->found > CAND)
        return -1;
    const int cut = sh->cut;
    for (int i = tid; i < vocab; i += NTH)
        if (p[i] > -INFINITY && bin_of(top, p[i]) <= cut) {
            int at = atomicAdd(&sh->n, 1);
            sh->val[at] = p[i];
            sh->id[at] = i;
        }
    __syncthreads();
    int n = sh->n;
    sort_candidates(sh, n);
    return n;
}

/* First index of the n sorted candidates at which the running sum of their
 * weights reaches (strict: exceeds) goal; n when it never does. *sum: the
 * running sum at the end of the walk. */
DEV int
walk(shared *sh, int n, float top, double goal, bool strict, double *sum)
{
    const int lane = threadIdx.x & 31;
    if (threadIdx.x < 32) {
        double run = 0;
        int at = n;
        for (int i0 = 0; i0 < n; i0 += 32) {
            int i = i0 + lane;
            double v = i < n ? expf(sh->val[i] - top) : 0;
            for (int o = 1; o < 32; o <<= 1) {
                double u = __shfl_up_sync(~0u, v, o);
                if (lane >= o)
                    v += u;
            }
            bool hit = i < n && (strict ? run + v > goal : run + v >= goal);
            unsigned votes = __ballot_sync(~0u, hit);
            run += __shfl_sync(~0u, v, 31);
            if (votes) {
                at = i0 + __ffs(votes) - 1;
                break;
            }
        }
        if (lane == 0) {
            sh->found = at;
            sh->sum[32] = run;
        }
    }
    __syncthreads();
    int at = sh->found;
    *sum = sh->sum[32];
    __syncthreads();
    return at;
}

/* Draw among sorted candidates, of which `kept` survived top_k and top_p. */
DEV int
draw_sorted(shared *sh, int kept, float top, float min_p, double u)
{
    int n = 0;
    for (int i0 = 0; i0 < kept; i0 += NTH) {
        int i = i0 + threadIdx.x;
        float w = i < kept ? expf(sh->val[i] - top) : 0;
        n += __syncthreads_count(w > 0 && w >= min_p);
    }
    if (n == 0)
        n = 1;
    double sum, unused;
    walk(sh, n, top, INFINITY, true, &sum);
    int at = walk(sh, n, top, u * sum, true, &unused);
    return sh->id[at < n ? at : n - 1];
}

DEV uint32_t
key_of(float v)
{
    uint32_t u = __float_as_uint(v);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

DEV double
mass_from(const float *p, int vocab, float top, uint32_t key, float min_p,
          double *count, shared *sh)
{
    double m = 0, c = 0;
    for (int i = threadIdx.x; i < vocab; i += NTH)
        if (key_of(p[i]) >= key && p[i] > -INFINITY) {
            float w = expf(p[i] - top);
            if (w >= min_p) {
                m += w;
                c += 1;
            }
        }
    if (count)
        *count = sum_all(c, sh);
    return sum_all(m, sh);
}

/* Largest key such that what is at or above it has `goal` ids or mass. */
DEV uint32_t
bisect(const float *p, int vocab, float top, uint32_t floor_key, float min_p,
       double goal, bool by_count, shared *sh)
{
    uint32_t key = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t test = key | 1u << bit;
        double count, mass = mass_from(p, vocab, top, max(test, floor_key),
                                       min_p, &count, sh);
        if ((by_count ? count >= goal : mass > goal) && test >= floor_key)
            key = test;
        else if (test < floor_key)
            key = test;
    }
    return max(key, floor_key);
}

/* The cuts and the draw by bisection, for rows too flat to gather. */
DEV int
draw_flat(const float *p, int vocab, float top, const sample_row &r, double u,
          shared *sh)
{
    uint32_t low = 1;
    if (r.top_k > 0 && r.top_k < vocab)
        low = bisect(p, vocab, top, low, 0, r.top_k, true, sh);
    if (r.top_p > 0 && r.top_p < 1) {
        double total = mass_from(p, vocab, top, low, 0, NULL, sh);
        low = bisect(p, vocab, top, low, 0, r.top_p * total, false, sh);
    }
    double sum = mass_from(p, vocab, top, low, r.min_p, NULL, sh);
    uint32_t key = bisect(p, vocab, top, low, r.min_p, u * sum, false, sh);
    double above = mass_from(p, vocab, top, key + 1, r.min_p, NULL, sh);
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    double w = expf(__uint_as_float(bits) - top);
    long skip = w > 0 && u * sum > above ? (long)((u * sum - above) / w) : 0;
    int id = -1, last = 0;
    for (int i0 = 0; i0 < vocab; i0 += NTH) {
        int i = i0 + threadIdx.x;
        bool hit = i < vocab && key_of(p[i]) == key;
        int after = scan_all(hit, sh);
        if (hit && skip < after) {
            if (skip == after - 1)
                sh->found = i;
        }
        if (hit)
            sh->cut = i;
        int n = __syncthreads_count(hit);
        if (n > 0)
            last = sh->cut;
        if (skip < n) {
            id = sh->found;
            break;
        }
        skip -= n;
        __syncthreads();
    }
    __syncthreads();
    return id >= 0 ? id : last;
}

/* Weights of the 4 logits at p, and their sum. */
DEV double
weights_of(const float *p, float top, float min_p, float (&w)[4])
{
    const float4 v = *(const float4 *)p;
    const float f[4] = {v.x, v.y, v.z, v.w};
    double sum = 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        w[k] = expf(f[k] - top);
        w[k] = w[k] >= min_p ? w[k] : 0;
        sum += w[k];
    }
    return sum;
}

/* One warp: the id of 128 from first on, before end, at which the sum that
 * begins with run exceeds goal; 4 ids a lane. */
DEV void
find_goal(const float *p, int first, int end, float top, float min_p,
          double run, double goal, shared *sh)
{
    const int lane = threadIdx.x & 31, i = first + 4 * lane;
    float w[4] = {0, 0, 0, 0};
    const double mine = i < end ? weights_of(p + i, top, min_p, w) : 0;
    double v = mine;
    for (int o = 1; o < 32; o <<= 1) {
        double x = __shfl_up_sync(~0u, v, o);
        if (lane >= o)
            v += x;
    }
    const unsigned votes = __ballot_sync(~0u, run + v > goal && mine > 0);
    if (lane != __ffs(votes) - 1)
        return;
    double sum = run + (v - mine);
    int at = -1;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        bool before = sum <= goal || at < 0;
        sum += w[k];
        if (before && w[k] > 0)
            at = k;
    }
    sh->found = i + at;
}

/* All warps: the same of [first, end), by the sums of its slices of 128. */
DEV void
find_slice(const float *p, int first, int end, float top, float min_p,
           double run, double goal, shared *sh)
{
    const int lane = threadIdx.x & 31, n = (end - first + 127) / 128;
    double *slice = (double *)sh->val;
    float unused[4];
#pragma unroll 1
    for (int j = threadIdx.x >> 5; j < n; j += NTH / 32) {
        const int i = first + 128 * j + 4 * lane;
        double s = i < end ? weights_of(p + i, top, min_p, unused) : 0;
        for (int o = 16; o; o >>= 1)
            s += __shfl_xor_sync(~0u, s, o);
        if (lane == 0)
            slice[j] = s;
    }
    __syncthreads();
    int at = -1;
#pragma unroll 1
    for (int j = 0; j < n && at < 0; j++) {
        if (run + slice[j] > goal)
            at = j;
        else
            run += slice[j];
    }
    if (at >= 0 && threadIdx.x < 32)
        find_goal(p, first + 128 * at, end, top, min_p, run, goal, sh);
}

/* Inversion in id order, nothing cut but by min_p. */
DEV int
draw_plain(const float *p, int vocab, float top, float min_p, double u,
           shared *sh)
{
    const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
    const int part = (vocab + NTH * 4 - 1) / (NTH * 4) * 128; /* ids a warp */
    const int first = w * part, end = min(first + part, vocab);
    double s = 0;
    float unused[4];
#pragma unroll 4
    for (int i = first + 4 * lane; i < end; i += 128)
        s += weights_of(p + i, top, min_p, unused);
    for (int o = 16; o; o >>= 1)
        s += __shfl_xor_sync(~0u, s, o);
    __syncthreads();
    if (lane == 0)
        sh->sum[w] = s;
    if (threadIdx.x == 0)
        sh->found = -1;
    __syncthreads();
    double total = 0, before = 0;
#pragma unroll 4
    for (int i = 0; i < NTH / 32; i++)
        total += sh->sum[i];
    const double goal = u * total;
    int at = 0;
#pragma unroll 1
    while (at < NTH / 32 - 1 && before + sh->sum[at] <= goal)
        before += sh->sum[at++];
    find_slice(p, at * part, min(at * part + part, vocab), top, min_p, before,
               goal, sh);
    __syncthreads();
    return sh->found;
}

DEV int
draw(const float *p, int vocab, float top, int top_id, const sample_row &r,
     shared *sh)
{
    if (!(r.temperature >= 1e-5f) || top == -INFINITY)
        return top == -INFINITY ? 0 : top_id;
    const double u = uniform(r.seed, r.draw);
    const bool by_mass = r.top_p > 0 && r.top_p < 1;
    const bool by_count = r.top_k > 0 && r.top_k < vocab;
    if (r.top_k <= 0 && !by_mass) {
        int id = draw_plain(p, vocab, top, r.min_p, u, sh);
        return id >= 0 ? id : top_id;
    }
    double total = 0, unused;
    if (by_mass && !by_count)
        total = sum_exp(p, vocab, top, 0, sh);
    for (int need = by_count ? r.top_k : 1024; need <= CAND;
         need = need < CAND ? CAND : CAND + 1) {
        int n = gather_top(p, vocab, top, need, sh);
        if (n < 0)
            break;
        int kept = by_count ? min(r.top_k, n) : n;
        if (by_mass) {
            if (by_count)
                walk(sh, kept, top, INFINITY, true, &total);
            int at = walk(sh, kept, top, (double)r.top_p * total, false,
                          &unused);
            if (at == kept && !by_count && n < vocab)
                continue;
            kept = min(at + 1, kept);
        } else if (!by_count && n < vocab) {
            continue;
        }
        return draw_sorted(sh, kept, top, r.min_p, u);
    }
    return draw_flat(p, vocab, top, r, u, sh);
}

/* The n most likely ids of p into the results. */
DEV void
put_top(const float *p, int vocab, float top, double log_sum, int n, int *id,
        float *logprob, shared *sh)
{
    int have = gather_top(p, vocab, top, n, sh);
    if (have >= 0) {
        for (int i = threadIdx.x; i < n; i += NTH) {
            id[i] = i < have ? sh->id[i] : -1;
            logprob[i] = i < have ? (float)(sh->val[i] - log_sum)
                                  : -INFINITY;
        }
        return;
    }
    float v = INFINITY;
    int at = -1;
    for (int i = 0; i < n; i++) {       /* many equal logits */
        float best = -INFINITY;
        int where = 0x7fffffff;
        for (int k = threadIdx.x; k < vocab; k += NTH)
            if (stands_before(v, at, p[k], k) &&
                stands_before(p[k], k, best, where)) {
                best = p[k];
                where = k;
            }
        max_all(best, where, sh);
        v = best;
        at = where;
        if (threadIdx.x == 0) {
            id[i] = at;
            logprob[i] = (float)(v - log_sum);
        }
    }
}

DEV void
put_logprobs(const sample &a, const sample_row &r, const float *p, int id,
             shared *sh)
{
    float top;
    int unused, rank = 0;
    find_max(p, a.vocab, top, unused, sh);
    double log_sum = top == -INFINITY
        ? 0 : (double)top + log(sum_exp(p, a.vocab, top, 0, sh));
    const float mine = p[id];
    for (int i = threadIdx.x; i < a.vocab; i += NTH)
        rank += stands_before(p[i], i, mine, id);
    rank = (int)sum_all(rank, sh);
    if (threadIdx.x == 0) {
        a.out[r.out].logprob = (float)((double)mine - log_sum);
        a.out[r.out].rank = rank + 1;
    }
    if (r.n_top > 0)
        put_top(p, a.vocab, top, log_sum, r.n_top,
                a.top_id + (size_t)r.out * BACKEND_TOP_MAX,
                a.top_logprob + (size_t)r.out * BACKEND_TOP_MAX, sh);
}

/* Writes the processed logits to the copy and returns it, or the row itself
 * when nothing changes it. */
DEV const float *
process(const sample &a, const sample_row &r, const float *raw)
{
    const bool greedy = !(r.temperature >= 1e-5f);
    const bool scaled = !greedy && r.temperature != 1;
    if (!scaled && !r.penal && r.mask < 0 && r.n_bias == 0)
        return raw;
    float *p = a.copy + (size_t)r.row * a.vocab;
    const uint16_t *count = a.count + (size_t)r.slot * a.vocab;
    for (int i = threadIdx.x; i < a.vocab; i += NTH) {
        float l = raw[i];
        if (r.penal) {
            int c = count[i], drawn = c & 0x7fff;
            if (c && r.repetition > 0 && r.repetition != 1)
                l = l > 0 ? l / r.repetition : l * r.repetition;
            if (drawn)
                l -= r.presence + r.frequency * drawn;
        }
        p[i] = l;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < r.n_bias; i += NTH) {
        int id = a.bias_id[r.bias + i];
        if (id >= 0 && id < a.vocab)
            atomicAdd(p + id, a.bias[r.bias + i]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < a.vocab; i += NTH) {
        bool off = r.mask >= 0 &&
            !(a.mask[(size_t)r.mask * ((a.vocab + 31) / 32) + i / 32] >>
              (i % 32) & 1);
        if (off)
            p[i] = -INFINITY;
        else if (scaled)
            p[i] /= r.temperature;
    }
    __syncthreads();
    return p;
}

DEV void
put_id(const sample &a, const sample_row &r, int id)
{
    a.out[r.out].id = id;
    a.out[r.out].done = device_clock();
}

static __global__ void
__launch_bounds__(NTH)
sample_rows(const __grid_constant__ sample a)
{
    extern __shared__ __align__(16) char sm[];
    shared *sh = (shared *)sm;
    pdl_trigger();
    pdl_wait();
    if (a.experts != NULL && blockIdx.x == 0 && threadIdx.x == 0)
        *a.experts = *a.distinct;
    const sample_row r = a.row[blockIdx.x];
    if (r.row < 0)
        return;
    const float *raw = a.logits + (size_t)r.row * a.vocab;
    if (r.target >= 0) {
        put_logprobs(a, r, raw, r.target, sh);
        if (threadIdx.x == 0)
            put_id(a, r, r.target);
        return;
    }
    const float *p = process(a, r, raw);
    float top;
    int id;
    /* A NaN anywhere is the model's failure, reported as id -1. */
    bool nan = find_max(p, a.vocab, top, id, sh);
    if (p != raw)
        nan = any_nan(raw, a.vocab);
    id = draw(p, a.vocab, top, id, r, sh);
    if (r.n_top >= 0)
        put_logprobs(a, r, r.raw ? raw : p, id, sh);
    if (threadIdx.x == 0) {
        put_id(a, r, nan ? -1 : id);
        a.last[r.slot] = id;
        if (r.penal) {
            uint16_t *c = a.count + (size_t)r.slot * a.vocab + id;
            if ((*c & 0x7fff) < 0x7fff)
                ++*c;
        }
    }
}

/* One block: ids may repeat, so their counts are added by one thread each
 * pass over the list slice in order of 32-bit words. */
static __global__ void
__launch_bounds__(1024)
count_ids(uint16_t *count, int vocab, const int *id, int n, int n_prompt)
{
    pdl_trigger();
    pdl_wait();
    for (int i = blockIdx.x * 1024 + threadIdx.x; i < n;
         i += gridDim.x * 1024) {
        if (id[i] < 0 || id[i] >= vocab)
            continue;
        unsigned *word = (unsigned *)(count + (id[i] & ~1));
        int shift = (id[i] & 1) * 16;
        if (i < n_prompt)
            atomicOr(word, 0x8000u << shift);
        else
            atomicAdd(word, 1u << shift);
    }
}

static __global__ void
end_step(uint64_t *clock, const unsigned *distinct, unsigned *experts)
{
    pdl_trigger();
    pdl_wait();
    *experts = *distinct;
    *clock = device_clock();
}

extern "C" int
cuda_step_end(uint64_t *clock, const unsigned *distinct, unsigned *experts,
              cudaStream_t s)
{
    return launch<0>(end_step, dim3(1), 1, s, clock, distinct, experts);
}

extern "C" int
cuda_sample(const struct sample *a, cudaStream_t s)
{
    if (a->n == 0)
        return 0;
    return launch<sizeof(shared)>(sample_rows, dim3(a->n), NTH, s, *a);
}

extern "C" int
cuda_count_ids(uint16_t *count, int vocab, int slot, const int *id, int n,
               int n_prompt, bool clear, cudaStream_t s)
{
    uint16_t *row = count + (size_t)slot * vocab;
    if (vocab % 2)
        return cudaErrorInvalidValue;
    if (clear) {
        cudaError_t e = cudaMemsetAsync(row, 0, (size_t)vocab * 2, s);
        if (e != cudaSuccess)
            return e;
    }
    if (n <= 0)
        return 0;
    return launch<0>(count_ids, dim3(n > 4096 ? 8 : 1), 1024, s, row, vocab,
                     id, n, n_prompt);
}
