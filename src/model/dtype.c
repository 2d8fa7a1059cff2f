#include "config.h"

#include "model/model.h"

#include <string.h>

/* Conversions of stored numbers. All are exact except float_to_bf16. */

static const struct { const char *name; size_t size; } dtypes[] = {
    [DTYPE_F32] = {"F32", 4},   [DTYPE_F16] = {"F16", 2},
    [DTYPE_BF16] = {"BF16", 2}, [DTYPE_F8_E4M3] = {"F8_E4M3", 1},
    [DTYPE_U8] = {"U8", 1},     [DTYPE_I8] = {"I8", 1},
    [DTYPE_I32] = {"I32", 4},   [DTYPE_I64] = {"I64", 8},
    [DTYPE_F8_E5M2] = {"F8_E5M2", 1}, [DTYPE_BOOL] = {"BOOL", 1},
    [DTYPE_F64] = {"F64", 8},
};

size_t
dtype_size(enum dtype t)
{
    return dtypes[t].size;
}

const char *
dtype_name(enum dtype t)
{
    return dtypes[t].name;
}

static float
from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float
bf16_to_float(uint16_t x)
{
    return from_bits((uint32_t)x << 16);
}

uint16_t
float_to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7FFFFFFF) > 0x7F800000)  /* NaN: keep it one */
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

float
f16_to_float(uint16_t x)
{
    uint32_t sign = (uint32_t)(x & 0x8000) << 16;
    uint32_t exp = x >> 10 & 31, man = x & 0x3FF;
    if (exp == 31)
        return from_bits(sign | 0x7F800000 | man << 13);
    if (exp != 0)
        return from_bits(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f;
    return sign ? -f : f;
}

float
e4m3_to_float(uint8_t x)
{
    uint32_t exp = x >> 3 & 15, man = x & 7;
    float f;
    if ((x & 0x7F) == 0x7F)
        f = from_bits(0x7FC00000);
    else if (exp != 0)
        f = from_bits((exp + 120) << 23 | man << 20);
    else
        f = (float)man * 0x1p-9f;
    return x & 0x80 ? -f : f;
}

float
e2m1_to_float(uint8_t code)
{
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float f = magnitude[code & 7];
    return code & 8 ? -f : f;
}

static void
plain_row(const struct weight *w, const char *data, int64_t r, float *out)
{
    uint64_t first = w->first + (uint64_t)r * (uint64_t)w->cols;
    const char *p = data + first * dtype_size(w->data->dtype);
    for (int64_t k = 0; k < w->cols; k++) {
        uint16_t h;
        switch (w->data->dtype) {
        case DTYPE_BF16:
            memcpy(&h, p + 2 * k, 2);
            out[k] = bf16_to_float(h);
            break;
        case DTYPE_F16:
            memcpy(&h, p + 2 * k, 2);
            out[k] = f16_to_float(h);
            break;
        default:
            memcpy(&out[k], p + 4 * k, 4);
        }
    }
}

void
weight_row(const struct weight *w, const void *data, const void *block,
           int64_t r, float *out)
{
    if (w->format == WEIGHT_PLAIN) {
        plain_row(w, data, r, out);
    } else if (w->format == WEIGHT_FP8) {
        const uint8_t *p = (const uint8_t *)data + w->first
                           + (uint64_t)r * (uint64_t)w->cols;
        for (int64_t k = 0; k < w->cols; k++)
            out[k] = e4m3_to_float(p[k]) * w->scale;
    } else {
        const uint8_t *p = (const uint8_t *)data + r * (w->cols / 2);
        const uint8_t *s = (const uint8_t *)block + r * (w->cols / 16);
        for (int64_t k = 0; k < w->cols; k++) {
            uint8_t code = k % 2 ? p[k / 2] >> 4 : p[k / 2] & 15;
            out[k] = e2m1_to_float(code) * e4m3_to_float(s[k / 16])
                     / w->global;
        }
    }
}
