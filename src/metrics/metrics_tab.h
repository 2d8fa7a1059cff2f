/* Ids of the metrics, and the shape of their rows; the rows are in
 * metrics_tab.c, in the same order. */
#ifndef METRICS_METRICS_TAB_H
#define METRICS_METRICS_TAB_H

#include <stdbool.h>
#include <stddef.h>

/* Places in a draft that are counted each for itself. */
#define METRIC_PLACES 7

enum metric {
    METRIC_RUNNING,            /* gauges */
    METRIC_WAITING,
    METRIC_KV_USAGE,           /* 0..1 */
    METRIC_OPEN_STREAMS,
    METRIC_PROMPT_TOKENS,      /* counters */
    METRIC_CACHED_TOKENS,
    METRIC_COMPUTED_TOKENS,    /* of prompts */
    METRIC_GENERATED_TOKENS,
    METRIC_PREFIX_QUERIES,     /* tokens */
    METRIC_PREFIX_HITS,        /* tokens */
    METRIC_PREEMPTIONS,
    METRIC_REFUSED,            /* queue full */
    METRIC_DONE_STOP,          /* finished requests by reason */
    METRIC_DONE_LENGTH,
    METRIC_DONE_ABORT,
    METRIC_DONE_ERROR,
    METRIC_DRAFTS,
    METRIC_DRAFT_TOKENS,
    METRIC_ACCEPTED_TOKENS,
    METRIC_ACCEPTED_AT,        /* by place in the draft, from 0 */
    METRIC_ACCEPTED_AT_LAST = METRIC_ACCEPTED_AT + METRIC_PLACES - 1,
    METRIC_HTTP_2XX,
    METRIC_HTTP_4XX,
    METRIC_HTTP_5XX,
    METRIC_TTFT,               /* histograms, seconds */
    METRIC_ITL,
    METRIC_E2E,
    METRIC_QUEUE_TIME,
    METRIC_PREFILL_TIME,
    METRIC_DECODE_TIME,
    METRIC_INFERENCE_TIME,
    METRIC_TOKEN_TIME,
    METRIC_STEP_TIME,
    METRIC_DEVICE_PAUSE,
    METRIC_REQUEST_PROMPT,     /* histograms, tokens */
    METRIC_REQUEST_GENERATED,
    METRIC_REQUEST_LONGEST,
    METRIC_STEP_TOKENS,
    METRIC_REQUEST_COMPUTED,
    METRIC_REQUEST_LIMIT,
    METRIC_REQUEST_CHOICES,
    METRIC_N
};

enum metric_type { METRIC_GAUGE, METRIC_COUNTER, METRIC_HISTOGRAM };

struct metric_row {
    enum metric_type type;
    const char *name;      /* sirocco_<name>; counters without _total */
    const char *label;     /* name="value" pair of a family, or NULL */
    const char *vllm;      /* vllm:<vllm>, or NULL */
    const char *vllm_label;
    const double *bucket;  /* histograms: ascending upper bounds */
    size_t n_bucket;
    const char *help;
    bool quiet;            /* not shown while it is 0; not a family's first */
};

/* Rows of one family (same name) stand together. */
extern const struct metric_row metrics_tab[METRIC_N];

/* Further names that dashboards ask for: vllm:<vllm>, some of them vLLM's own
 * of some time ago. Those of one family stand together; the list ends with a
 * NULL. */
struct metric_alias {
    enum metric metric;
    const char *vllm;
    const char *label;     /* or NULL */
};
extern const struct metric_alias metrics_aliases[];

#define METRIC_BUCKETS_MAX 32

#endif
