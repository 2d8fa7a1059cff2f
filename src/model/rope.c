#include "config.h"

#include "model/model.h"

#include <math.h>

/*
 * Rope frequencies, query scale and score scale; the formulas with their check
 * values are in model/README. The frequencies are built in fp32, operation by
 * operation as the public implementations do, so that angles at far positions
 * agree with theirs.
 */

/* Lane at which a wave of theta makes r turns over the original length. */
static double
corrected_lane(const struct model_text_params *p, double turns)
{
    const double pi = 3.14159265358979323846;
    return p->rope * log(p->yarn.original / (turns * 2 * pi))
           / (2 * log(p->rope_theta));
}

void
model_rope_freqs(const struct model_text_params *p, float *out)
{
    int n = p->rope / 2;
    bool yarn = p->yarn.factor > 1;
    float low = 0, high = 1;
    if (yarn) {
        low = (float)fmax(floor(corrected_lane(p, p->yarn.beta_fast)), 0);
        high = (float)fmin(ceil(corrected_lane(p, p->yarn.beta_slow)),
                           p->rope - 1);
        if (low == high)
            high += 0.001f; /* a step instead of a division by zero */
    }
    for (int i = 0; i < n; i++) {
        float exponent = (float)(2 * i) / (float)p->rope;
        float wave = (float)pow(p->rope_theta, exponent);
        out[i] = 1.0f / wave;
        if (!yarn)
            continue;
        float ramp = fminf(fmaxf(((float)i - low) / (high - low), 0), 1);
        float keep = 1.0f - ramp;
        float slow = 1.0f / ((float)p->yarn.factor * wave);
        out[i] = slow * (1.0f - keep) + out[i] * keep;
    }
}

float
model_query_scale(const struct model_text_params *p, int64_t pos)
{
    double turns = floor((double)pos / p->l4_original);
    return (float)(1 + p->l4_beta * log1p(turns));
}

float
model_score_scale(const struct model_text_params *p)
{
    double scale = 1 / sqrt((double)(p->nope + p->rope));
    if (p->yarn.apply_scale && p->yarn.factor > 1) {
        double magnitude = 0.1 * log(p->yarn.factor) + 1;
        scale *= magnitude * magnitude;
    }
    return (float)scale;
}
