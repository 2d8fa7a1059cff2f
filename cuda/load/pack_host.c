/* Repacking of weights in host memory, for packed files. README has the form
 * of a unit; pack.cu does the same on the device. */
#include "config.h"

#include "cuda/load/packed.h"

#include <string.h>

#define UNIT_COLS 512
#define UNIT_BYTES 4608
#define UNIT_CODES 4096

/* Block scale e4m3 to (exponent + 22) << 3 | mantissa, subnormals made normal;
 * zero for a zero scale. */
static uint8_t
scale_byte(uint8_t e4m3)
{
    unsigned e = e4m3 >> 3 & 15, m = e4m3 & 7;
    if (e > 0)
        return (uint8_t)((e + 15) << 3 | m);
    if (m == 0)
        return 0;
    unsigned up = m >= 4 ? 1 : m >= 2 ? 2 : 3;
    return (uint8_t)((16 - up) << 3 | (m << up & 7));
}

/* Bits of a code at its place for pair p of a half-word. */
static uint32_t
place(unsigned code, int p)
{
    static const int sign[4] = {15, 12, 14, 13}, low[4] = {6, 3, 9, 0};
    return (uint32_t)(code >> 3 & 1) << sign[p]
           | (uint32_t)(code & 7) << low[p];
}

/* What a stored byte, two codes, puts into a word as pair p. */
struct places { uint32_t word[4][256]; };

static void
make_places(struct places *t)
{
    for (int p = 0; p < 4; p++)
        for (unsigned b = 0; b < 256; b++)
            t->word[p][b] = place(b & 15, p) | place(b >> 4, p) << 16;
}

/* One lane's 16 columns of row g (half 0) or g + 8: four words, two bytes of
 * codes each. */
static void
add_row(const struct places *t, const uint8_t *codes, int half, uint8_t *to)
{
    for (int s = 0; s < 4; s++) {
        uint32_t word;
        memcpy(&word, to + 4 * s, 4);
        word |= t->word[half][codes[2 * s]]
                | t->word[2 + half][codes[2 * s + 1]];
        memcpy(to + 4 * s, &word, 4);
    }
}

/* Row g or g + 8 of a row tile, all its columns. out: the tile's units, whose
 * bits of this row are zero so far. */
static void
pack_row(const struct places *t, const uint8_t *codes, const uint8_t *blocks,
         int cols, int g, int half, uint8_t *out)
{
    for (int col = 0; col < cols; col += 16) {
        uint8_t *unit = out + (size_t)(col / UNIT_COLS) * UNIT_BYTES;
        int tile = col % UNIT_COLS / 64, lane = 4 * g + col % 64 / 16;
        uint8_t scale = blocks[col / 16];
        if (scale & 0x7f)
            add_row(t, codes + col / 2, half,
                    unit + tile * 512 + lane * 16);
        unit[UNIT_CODES + lane * 16 + 2 * tile + half] = scale_byte(scale);
    }
}

void
host_pack_fp4(const void *codes, const void *blocks, int rows, int cols,
              int step, int first, void *out)
{
    struct places t;
    size_t units = ((size_t)cols + UNIT_COLS - 1) / UNIT_COLS;
    make_places(&t);
    for (int r = 0; r < rows; r++) {
        int to = r / 8 * step + first + r % 8;
        pack_row(&t, (const uint8_t *)codes + (size_t)r * (size_t)cols / 2,
                 (const uint8_t *)blocks + (size_t)r * (size_t)cols / 16,
                 cols, to % 8, to / 8 % 2,
                 (uint8_t *)out + (size_t)(to / 16) * units * UNIT_BYTES);
    }
}

void
host_pack_rows(const void *in, int rows, uint64_t row_bytes, int step,
               int first, void *out)
{
    for (int r = 0; r < rows; r++)
        memcpy((char *)out
               + (uint64_t)(r / 8 * step + first + r % 8) * row_bytes,
               (const char *)in + (uint64_t)r * row_bytes, row_bytes);
}

void
host_unpack_bf16(enum layout stored, const void *data, const void *blocks,
                 int rows, int cols, void *out)
{
    const uint8_t *in = data, *scale = blocks;
    uint16_t *to = out;
    size_t n = (size_t)rows * (size_t)cols;
    if (stored == LAYOUT_BF16) {
        memcpy(to, in, n * 2);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        float f;
        if (stored == LAYOUT_FP8)
            f = e4m3_to_float(in[i]);
        else
            f = e2m1_to_float((uint8_t)(in[i / 2] >> (i & 1) * 4 & 15))
                * e4m3_to_float(scale[i / 16]);
        to[i] = float_to_bf16(f);
    }
}

void
host_split_kv_b(const void *kv_b, int heads, void *uk, void *uk_t, void *uv)
{
    const uint16_t *row = kv_b;
    uint16_t *key = uk, *turned = uk_t, *value = uv;
    for (int h = 0; h < heads; h++) {
        for (int r = 0; r < MLA_NOPE; r++, row += MLA_RANK) {
            memcpy(key, row, MLA_RANK * 2);
            key += MLA_RANK;
            for (int c = 0; c < MLA_RANK; c++)
                turned[((size_t)h * MLA_RANK + (size_t)c) * MLA_NOPE
                       + (size_t)r] = row[c];
        }
        memcpy(value, row, (size_t)MLA_V * MLA_RANK * 2);
        value += (size_t)MLA_V * MLA_RANK;
        row += (size_t)MLA_V * MLA_RANK;
    }
}
