/*
 * Repacking of weights on their way into device memory, behind the reads.
 *
 * DESIGN. One thread writes one 16-byte piece of the result and gathers its
 * codes; reads come from the staging copy through L2. All of this is far
 * faster than the bus. Row r of the input becomes row
 * (r / row_step_in) ... of the result as out_row() says: gate and up rows
 * alternate in eights (row_step 16, row_first 0 or 8), other matrices keep
 * their order (row_step 8, row_first 0).
 */
#include "cuda/part/device.cuh"

DEV int
out_row(int r, int step, int first)
{
    return r / 8 * step + first + r % 8;
}

/* Block scale e4m3 to the unit's form: (exponent + 22) << 3 | mantissa, with
 * subnormals normalised; zero for a zero scale. */
DEV uint32_t
scale_byte(uint32_t e4m3)
{
    uint32_t e = (e4m3 >> 3) & 15, m = e4m3 & 7;
    if (e > 0)
        return (e - 7 + 22) << 3 | m;
    if (m == 0)
        return 0;
    int up = m >= 4 ? 1 : m >= 2 ? 2 : 3;  /* 2^-6 * m/8 */
    m = (m << up) & 7;
    return (uint32_t)(-6 - up + 22) << 3 | m;
}

/* Bits of code c (sign, 3 bits of magnitude) at its place for pair p. */
DEV uint32_t
place(uint32_t c, int p)
{
    const int sign[4] = {15, 12, 14, 13}, low[4] = {6, 3, 9, 0};
    return (c >> 3 & 1) << sign[p] | (c & 7) << low[p];
}

/* Thread: 16 bytes of codes (one lane of one 64-column tile) and, for its
 * rows g and g + 8, the two scale bytes. Only rows of this input are touched:
 * step 16 fills half a tile, so the pieces of the other half stay. */
static __global__ void
pack_fp4(const uint8_t *codes, const uint8_t *blocks, int rows, int cols,
         int step, int first, uint8_t *out)
{
    const int units = (cols + 511) / 512;
    const int per_tile = step == 16 ? 8 : 16;  /* input rows a row tile */
    const long n = (long)(rows / per_tile) * units * 8 * 32;
    const long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    const int lane = i % 32, tile = i / 32 % 8, unit = i / 256 % units;
    const int rt = (int)(i / 256 / units), g = lane >> 2, t = lane & 3;
    uint8_t *u = out + ((size_t)rt * units + unit) * UNIT;
    const int col = unit * 512 + tile * 64 + 16 * t;
    uint32_t word[4] = {0, 0, 0, 0};
    for (int half = 0; half < 2; half++) {      /* row g or g + 8 */
        int r;
        if (step == 16) {
            if (half * 8 != first)
                continue;
            r = rt * 8 + g;
        } else {
            r = rt * 16 + half * 8 + g;
        }
        bool in = col < cols;
        uint32_t sc = in ? blocks[(size_t)r * (cols / 16) + col / 16] : 0;
        const uint8_t *c = codes + (size_t)r * (cols / 2) + col / 2;
        for (int k = 0; k < 16; k++) {
            uint32_t code = in && (sc & 0x7f)
                ? c[k / 2] >> (k & 1) * 4 & 15 : 0;
            int pair = (k & 3) / 2 * 2 + half;
            word[k / 4] |= place(code, pair) << (k & 1) * 16;
        }
        u[4096 + lane * 16 + tile * 2 + half] = (uint8_t)scale_byte(sc);
    }
    uint32_t *dst = (uint32_t *)(u + tile * 512 + lane * 16);
    if (step == 16) {
        /* Gate and up share words; each owns the bits of its pairs. */
        const uint32_t own = first ? 0x10381038u | 0x20072007u
                                   : 0x81C081C0u | 0x4E004E00u;
        for (int k = 0; k < 4; k++)
            dst[k] = (dst[k] & ~own) | word[k];
    } else {
        for (int k = 0; k < 4; k++)
            dst[k] = word[k];
    }
}

static __global__ void
pack_rows(const uint4 *in, int rows, long row16, int step, int first,
          uint4 *out)
{
    const long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i >= rows * row16)
        return;
    int r = (int)(i / row16);
    out[out_row(r, step, first) * row16 + i % row16] = in[i];
}

/* Any stored layout to bf16 without the per-tensor scale, exact. */
static __global__ void
unpack_bf16(int stored, const uint8_t *data, const uint8_t *blocks, int rows,
            int cols, bf16 *out)
{
    const long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i >= (long)rows * cols)
        return;
    if (stored == LAYOUT_BF16) {
        out[i] = ((const bf16 *)data)[i];
        return;
    }
    uint32_t b;
    float f = 1;
    if (stored == LAYOUT_FP8) {
        b = data[i];
    } else {
        const float code[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
        uint32_t c = data[i / 2] >> (i & 1) * 4 & 15;
        f = c & 8 ? -code[c & 7] : code[c & 7];
        b = blocks[i / 16];
    }
    int e = b >> 3 & 15, m = b & 7;
    float v = e ? ldexpf(1 + m / 8.0f, e - 7) : ldexpf(m / 8.0f, -6);
    out[i] = __float2bfloat16((b & 128 ? -v : v) * f);
}

/* wkv_b [heads * 192, 256]: a head's 64 key rows into uk and, transposed, into
 * uk_t, its 128 value rows into uv. */
static __global__ void
split_kv_b(const bf16 *w, int heads, bf16 *uk, bf16 *uk_t, bf16 *uv)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= heads * (MLA_NOPE + MLA_V) * MLA_RANK)
        return;
    int c = i % MLA_RANK, r = i / MLA_RANK % (MLA_NOPE + MLA_V);
    int h = i / MLA_RANK / (MLA_NOPE + MLA_V);
    if (r < MLA_NOPE) {
        uk[((size_t)h * MLA_NOPE + r) * MLA_RANK + c] = w[i];
        uk_t[((size_t)h * MLA_RANK + c) * MLA_NOPE + r] = w[i];
    } else {
        uv[((size_t)h * MLA_V + r - MLA_NOPE) * MLA_RANK + c] = w[i];
    }
}

static dim3
blocks_for(long n)
{
    return dim3((unsigned)((n + 255) / 256));
}

extern "C" int
cuda_has_kernels(void)
{
    cudaFuncAttributes a;
    return cudaFuncGetAttributes(&a, pack_rows);
}

extern "C" int
cuda_pack_fp4(const void *codes, const void *blocks, int rows, int cols,
              int step, int first, void *out, cudaStream_t s)
{
    int per_tile = step == 16 ? 8 : 16;
    if (rows % per_tile || cols % 64)
        return cudaErrorInvalidValue;
    long n = (long)(rows / per_tile) * ((cols + 511) / 512) * 256;
    pack_fp4<<<blocks_for(n), 256, 0, s>>>(
        (const uint8_t *)codes, (const uint8_t *)blocks, rows, cols, step,
        first, (uint8_t *)out);
    return cudaGetLastError();
}

extern "C" int
cuda_pack_rows(const void *in, int rows, uint64_t row_bytes, int step,
               int first, void *out, cudaStream_t s)
{
    if (row_bytes % 16 || rows % 8)
        return cudaErrorInvalidValue;
    long n = rows * (long)(row_bytes / 16);
    pack_rows<<<blocks_for(n), 256, 0, s>>>((const uint4 *)in, rows,
                                            (long)(row_bytes / 16), step,
                                            first, (uint4 *)out);
    return cudaGetLastError();
}

extern "C" int
cuda_unpack_bf16(enum layout stored, const void *data, const void *blocks,
                 int rows, int cols, void *out, cudaStream_t s)
{
    unpack_bf16<<<blocks_for((long)rows * cols), 256, 0, s>>>(
        stored, (const uint8_t *)data, (const uint8_t *)blocks, rows, cols,
        (bf16 *)out);
    return cudaGetLastError();
}

extern "C" int
cuda_split_kv_b(const void *kv_b, int heads, void *uk, void *uk_t, void *uv,
                cudaStream_t s)
{
    long n = (long)heads * (MLA_NOPE + MLA_V) * MLA_RANK;
    split_kv_b<<<blocks_for(n), 256, 0, s>>>((const bf16 *)kv_b, heads,
                                             (bf16 *)uk, (bf16 *)uk_t,
                                             (bf16 *)uv);
    return cudaGetLastError();
}
