#include "config.h"

#include "cpu/forward.h"

#include <math.h>

void
norm_rms(const struct kernels *k, float *y, const float *x,
         const float *weight, int n, double eps)
{
    float mean = k->sum_squares(x, n) / (float)n;
    float scale = 1.0f / sqrtf(mean + (float)eps);
    for (int i = 0; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

void
norm_rotate(float *x, const float *cos, const float *sin, int n_pairs)
{
    for (int i = 0; i < n_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}
