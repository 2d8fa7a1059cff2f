/* What the parts of the self-test share, see selftest_rows.h. Stored rows are
 * read from the checkpoint anew each time, in the forms that it has. */
#include "config.h"

#include "cuda/selftest/selftest_rows.h"

#include "base/log.h"

#include <math.h>
#include <stdlib.h>

static size_t
widest(const struct cuda *c)
{
    const struct model_vision_params *v = &c->tower.p;
    const size_t size[] = {
        (size_t)c->p.vocab, (size_t)c->p.n_heads * MLA_QK, (size_t)c->p.dim,
        (size_t)c->p.q_rank + MLA_ROW, (size_t)c->p.expert_hidden,
        (size_t)v->hidden, (size_t)(v->dim * v->merge * v->merge),
        (size_t)c->tower.conv.cols,
    };
    size_t most = 0;
    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        most = size[i] > most ? size[i] : most;
    return most;
}

int
check_open(struct check *k, struct cuda *c, uint64_t seed, struct err *e)
{
    const size_t n = widest(c);
    *k = (struct check){.c = c, .m = c->model, .e = e, .rng = seed,
                        .width = n};
    k->bytes = malloc(n * 8);
    k->row = malloc(n * 4);
    k->dev = malloc(n * 8);
    return k->bytes && k->row && k->dev
           ? 0 : err_set(e, ERR_NOMEM, "no memory for the self-test");
}

void
check_close(struct check *k)
{
    free(k->bytes);
    free(k->row);
    free(k->dev);
}

uint32_t
check_random(struct check *k)
{
    k->rng ^= k->rng << 13;
    k->rng ^= k->rng >> 7;
    k->rng ^= k->rng << 17;
    return (uint32_t)(k->rng >> 32);
}

double
check_unit(struct check *k)
{
    return (double)check_random(k) / 2147483648.0 - 1;
}

void
check_add(struct check *k, double got, double want)
{
    k->diff += (got - want) * (got - want);
    k->norm += want * want;
    if (!isfinite(got))
        k->diff = INFINITY;
}

int
check_fetch(struct check *k, const void *from, uint64_t at, void *out,
            uint64_t size)
{
    return cuda_check(k->c, (int)cudaMemcpy(out, (const char *)from + at,
                                            size, cudaMemcpyDeviceToHost),
                      "self-test", k->e);
}

int
check_fetch_bf16(struct check *k, const void *from, uint64_t at, int n)
{
    uint16_t *v = (uint16_t *)k->dev + n;
    int r = check_fetch(k, from, at * 2, v, (uint64_t)n * 2);
    for (int i = 0; r == 0 && i < n; i++)
        k->dev[i] = bf16_to_float(v[i]);
    return r;
}

int
check_stored_row(struct check *k, const struct weight *w, int64_t r)
{
    struct weight one = *w;
    uint64_t at = w->first + (uint64_t)(r * w->cols);
    uint64_t cols = (uint64_t)w->cols, size = cols * 2;
    if (w->format == WEIGHT_NVFP4)
        at /= 2, size = cols / 2;
    else if (w->format == WEIGHT_FP8)
        size = cols;
    else
        at *= 2;
    one.first = 0;
    int rc = model_read(k->m, w->data, at, k->bytes, size, k->e);
    if (rc == 0 && w->format == WEIGHT_NVFP4)
        rc = model_read(k->m, w->block,
                        (w->first + (uint64_t)(r * w->cols)) / 16,
                        k->bytes + size, cols / 16, k->e);
    if (rc == 0)
        weight_row(&one, k->bytes, k->bytes + size, 0, k->row);
    return rc;
}

int
check_stored_dot(struct check *k, const struct weight *w, int64_t r,
                 const double *x, double *out)
{
    int rc = check_stored_row(k, w, r);
    *out = 0;
    for (int64_t i = 0; rc == 0 && i < w->cols; i++)
        *out += (double)k->row[i] * x[i];
    return rc;
}

int
check_stored_norm(struct check *k, const struct tensor *n, const double *x,
                  int dim, double eps, double *out)
{
    double sum = 0;
    int r = model_read(k->m, n, 0, k->bytes, (uint64_t)dim * 2, k->e);
    for (int i = 0; i < dim; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / dim + eps);
    for (int i = 0; r == 0 && i < dim; i++) {
        float w = bf16_to_float(((uint16_t *)k->bytes)[i]);
        out[i] = x[i] * scale * (double)w;
    }
    return r;
}

void
check_round(double *x, int n)
{
    for (int i = 0; i < n; i++)
        x[i] = (double)bf16_to_float(float_to_bf16((float)x[i]));
}

int
check_probe(struct check *k, const struct weight *w, const double *x,
            const float *got)
{
    int n = w->rows < CHECK_PROBES ? (int)w->rows : CHECK_PROBES, r = 0;
    for (int i = 0; r == 0 && i < n; i++) {
        int64_t row = n == w->rows ? i : (int64_t)(check_random(k) % w->rows);
        double want;
        r = check_stored_dot(k, w, row, x, &want);
        check_add(k, (double)got[row], want);
    }
    return r;
}

int
check_end(struct check *k, const char *kernel, double bound,
          const char *where)
{
    double err = k->norm > 0 ? sqrt(k->diff / k->norm) : k->diff;
    k->diff = k->norm = 0;
    log_debug("cuda: self-test: %s, %s: %.1e", kernel, where, err);
    if (err / bound > k->worst)
        k->worst = err / bound;
    if (err <= bound)
        return 0;
    return err_set(k->e, ERR_MISMATCH, "self-test: kernel %s is wrong on this"
                   " GPU: relative error %.1e, at most %.0e (%s)", kernel, err,
                   bound, where);
}
