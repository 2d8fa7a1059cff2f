/*
 * Counters, gauges and histograms, and their Prometheus text. metrics_tab.c
 * has one row a metric; metrics_tab.h the ids. Any thread: updates are relaxed
 * atomics and never block.
 */
#ifndef METRICS_METRICS_H
#define METRICS_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "metrics/metrics_tab.h"

/* Adds n to a counter or gauge (n may be negative for gauges). */
void metrics_add(enum metric m, int64_t n);
/* Sets a gauge. */
void metrics_set(enum metric m, double value);
/* Counts a value in a histogram; in its unit (seconds, tokens). */
void metrics_observe(enum metric m, double value);

/* Value of the model_name label, copied; call once at start. */
void metrics_set_model(const char *name);

/* What the KV cache is, for the info metrics: tokens a block, blocks, whether
 * prefixes are kept. Call once at start; without it they are left out. */
void metrics_set_cache(uint32_t block, uint32_t n_blocks, bool prefixes);

/* Appends all metrics in text format 0.0.4: our own names (sirocco_*),
 * process_* of this process, and with vllm the vllm:* and http_* names of
 * dashboards. Returns 0 or ERR_NOMEM. */
int metrics_text(struct buf *out, bool vllm);

#endif
