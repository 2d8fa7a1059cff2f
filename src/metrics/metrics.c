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
#include "metrics/http.h"
#include "metrics/process.h"

struct value {
    _Atomic int64_t count;     /* counter, gauge by add, histogram count */
    _Atomic uint64_t number;   /* bits of a double: gauge by set, sum */
    _Atomic int64_t bucket[METRIC_BUCKETS_MAX]; /* not cumulative */
};

static struct value values[METRIC_N];
static char model_name[256] = "";
static struct {
    uint32_t block, n_blocks;
    bool prefixes;
} cache;

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

void
metrics_set_cache(uint32_t block, uint32_t n_blocks, bool prefixes)
{
    cache.block = block;
    cache.n_blocks = n_blocks;
    cache.prefixes = prefixes;
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
put_metric(struct buf *out, enum metric m, const struct shape *s, bool first)
{
    const struct metric_row *row = &metrics_tab[m];
    const struct value *v = &values[m];

    if (row->quiet
        && atomic_load_explicit(&v->count, memory_order_relaxed) == 0)
        return 0;
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

static bool
is_first(int m)
{
    return m == 0
           || strcmp(metrics_tab[m - 1].name, metrics_tab[m].name) != 0;
}

static int
put_vllm(struct buf *out)
{
    int rc = 0;
    for (int m = 0; rc == 0 && m < METRIC_N; m++) {
        const struct metric_row *row = &metrics_tab[m];
        struct shape s = {"vllm:", row->vllm, row->vllm_label, true};
        if (row->vllm != NULL)
            rc = put_metric(out, m, &s, is_first(m));
    }
    for (const struct metric_alias *a = metrics_aliases;
         rc == 0 && a->vllm != NULL; a++) {
        struct shape s = {"vllm:", a->vllm, a->label, true};
        rc = put_metric(out, a->metric, &s,
                        a == metrics_aliases
                            || strcmp(a[-1].vllm, a->vllm) != 0);
    }
    return rc;
}

/* What does not change: the value is 1, the facts are in the labels. */
static int
put_cache(struct buf *out, bool vllm)
{
    if (cache.block == 0)
        return 0;
    int rc = buf_printf(out, "# HELP sirocco_cache_info The KV cache.\n"
                        "# TYPE sirocco_cache_info gauge\n"
                        "sirocco_cache_info{model_name=\"%s\",block_size="
                        "\"%" PRIu32 "\",blocks=\"%" PRIu32 "\","
                        "prefix_cache=\"%s\"} 1\n", model_name, cache.block,
                        cache.n_blocks, cache.prefixes ? "on" : "off");
    if (rc != 0 || !vllm)
        return rc;
    return buf_printf(out, "# HELP vllm:cache_config_info The KV cache.\n"
                      "# TYPE vllm:cache_config_info gauge\n"
                      "vllm:cache_config_info{model_name=\"%s\",engine=\"0\""
                      ",block_size=\"%" PRIu32 "\",num_gpu_blocks=\"%" PRIu32
                      "\",enable_prefix_caching=\"%s\"} 1\n", model_name,
                      cache.block, cache.n_blocks,
                      cache.prefixes ? "True" : "False");
}

int
metrics_text(struct buf *out, bool vllm)
{
    int rc = 0;
    for (int m = 0; rc == 0 && m < METRIC_N; m++) {
        const struct metric_row *row = &metrics_tab[m];
        struct shape s = {"sirocco_", row->name, row->label, false};
        rc = put_metric(out, m, &s, is_first(m));
    }
    if (rc == 0 && vllm)
        rc = put_vllm(out);
    rc = rc ? rc : put_cache(out, vllm);
    if (rc == 0 && vllm)
        rc = http_put(out);
    return rc ? rc : process_put(out);
}
