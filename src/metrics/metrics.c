/*
 * Values of the metrics, updated with relaxed atomics. A scrape reads them one
 * by one, so figures of one scrape may differ by what happened meanwhile; each
 * is right by itself.
 */
#include "config.h"

#include "metrics/metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"

struct value {
    _Atomic int64_t count;     /* counter, gauge by add, histogram count */
    _Atomic uint64_t number;   /* bits of a double: gauge by set, sum */
    _Atomic int64_t bucket[METRIC_BUCKETS_MAX]; /* not cumulative */
};

static struct value values[METRIC_N];
static char model_name[256] = "";

static double
number_get(const struct value *v)
{
    uint64_t bits = atomic_load_explicit(&v->number, memory_order_relaxed);
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void
number_add(struct value *v, double add)
{
    uint64_t old = atomic_load_explicit(&v->number, memory_order_relaxed);
    uint64_t new;
    do {
        double x;
        memcpy(&x, &old, sizeof x);
        x += add;
        memcpy(&new, &x, sizeof new);
    } while (!atomic_compare_exchange_weak_explicit(
        &v->number, &old, new, memory_order_relaxed, memory_order_relaxed));
}

void
metrics_add(enum metric m, int64_t n)
{
    atomic_fetch_add_explicit(&values[m].count, n, memory_order_relaxed);
}

void
metrics_set(enum metric m, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    atomic_store_explicit(&values[m].number, bits, memory_order_relaxed);
}

void
metrics_observe(enum metric m, double value)
{
    const struct metric_row *row = &metrics_tab[m];
    size_t i = 0;

    if (!isfinite(value))
        return;
    while (i < row->n_bucket && value > row->bucket[i])
        i++;
    if (i < row->n_bucket)
        atomic_fetch_add_explicit(&values[m].bucket[i], 1,
                                  memory_order_relaxed);
    atomic_fetch_add_explicit(&values[m].count, 1, memory_order_relaxed);
    number_add(&values[m], value);
}

void
metrics_set_model(const char *name)
{
    size_t n = 0;
    for (; *name && n + 2 < sizeof model_name; name++) {
        if (*name == '"' || *name == '\\')
            model_name[n++] = '\\';
        model_name[n++] = *name == '\n' ? ' ' : *name;
    }
    model_name[n] = 0;
}

/* Name as exposed: prefix, name, and _total for counters. */
struct shape {
    const char *prefix, *name, *label;
    bool vllm;
};

static int
put_head(struct buf *out, const struct metric_row *row,
         const struct shape *s)
{
    static const char *const types[] = {"gauge", "counter", "histogram"};
    const char *total = row->type == METRIC_COUNTER ? "_total" : "";

    return buf_printf(out, "# HELP %s%s%s %s\n# TYPE %s%s%s %s\n", s->prefix,
                      s->name, total, row->help, s->prefix, s->name, total,
                      types[row->type]);
}

/* Labels inside the braces, without `le`. */
static int
put_labels(struct buf *out, const struct shape *s)
{
    int rc = buf_printf(out, "model_name=\"%s\"", model_name);
    if (rc == 0 && s->vllm)
        rc = buf_puts(out, ",engine=\"0\"");
    if (rc == 0 && s->label)
        rc = buf_printf(out, ",%s", s->label);
    return rc;
}

static int
put_sample(struct buf *out, const struct shape *s, const char *suffix,
           const char *le, double value)
{
    int rc = buf_printf(out, "%s%s%s{", s->prefix, s->name, suffix);
    if (rc == 0)
        rc = put_labels(out, s);
    if (rc == 0 && le)
        rc = buf_printf(out, ",le=\"%s\"", le);
    if (rc == 0)
        rc = buf_printf(out, "} %.17g\n", value);
    return rc;
}

static int
put_histogram(struct buf *out, const struct metric_row *row,
              const struct value *v, const struct shape *s)
{
    int64_t sum = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < row->n_bucket; i++) {
        char le[32];
        snprintf(le, sizeof le, "%.9g", row->bucket[i]);
        sum += atomic_load_explicit(&v->bucket[i], memory_order_relaxed);
        rc = put_sample(out, s, "_bucket", le, (double)sum);
    }
    int64_t n = atomic_load_explicit(&v->count, memory_order_relaxed);
    if (n < sum) /* a bucket was counted after we read the count */
        n = sum;
    if (rc == 0)
        rc = put_sample(out, s, "_bucket", "+Inf", (double)n);
    if (rc == 0)
        rc = put_sample(out, s, "_sum", NULL, number_get(v));
    if (rc == 0)
        rc = put_sample(out, s, "_count", NULL, (double)n);
    return rc;
}

static int
put_metric(struct buf *out, enum metric m, const struct shape *s)
{
    const struct metric_row *row = &metrics_tab[m];
    const struct value *v = &values[m];
    bool first = m == 0 || strcmp(metrics_tab[m - 1].name, row->name) != 0;
    int rc = first ? put_head(out, row, s) : 0;

    if (rc != 0)
        return rc;
    switch (row->type) {
    case METRIC_HISTOGRAM:
        return put_histogram(out, row, v, s);
    case METRIC_COUNTER:
        return put_sample(out, s, "_total", NULL,
                          (double)atomic_load_explicit(
                              &v->count, memory_order_relaxed));
    default:
        return put_sample(out, s, "", NULL,
                          number_get(v)
                              + (double)atomic_load_explicit(
                                  &v->count, memory_order_relaxed));
    }
}

static int
put_vllm(struct buf *out)
{
    int rc = 0;
    for (int m = 0; rc == 0 && m < METRIC_N; m++) {
        const struct metric_row *row = &metrics_tab[m];
        struct shape s = {"vllm:", row->vllm, row->vllm_label, true};
        if (row->vllm != NULL)
            rc = put_metric(out, m, &s);
    }
    for (const struct metric_alias *a = metrics_aliases;
         rc == 0 && a->vllm != NULL; a++) {
        struct shape s = {"vllm:", a->vllm, NULL, true};
        rc = put_metric(out, a->metric, &s);
    }
    return rc;
}

int
metrics_text(struct buf *out, bool vllm)
{
    int rc = 0;
    for (int m = 0; rc == 0 && m < METRIC_N; m++) {
        const struct metric_row *row = &metrics_tab[m];
        struct shape s = {"sirocco_", row->name, row->label, false};
        rc = put_metric(out, m, &s);
    }
    return rc == 0 && vllm ? put_vllm(out) : rc;
}
