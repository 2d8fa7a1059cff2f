/*
 * Handlers come and stay: a pair of handler and method gets its place with its
 * first request, so paths that nobody asks for take no lines of a scrape.
 */
#include "config.h"

#include "metrics/http.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#define PAIRS 64
#define N_CLASS 6   /* 0xx, which nobody sends, to 5xx */

/* That middleware's own, coarse ones: one histogram for each pair. */
static const double edge[] = {.1, .5, 1};
#define N_EDGE (sizeof edge / sizeof *edge)

struct pair {
    const char *handler, *method;
    uint64_t by_class[N_CLASS];
    uint64_t bucket[N_EDGE]; /* cumulative */
    uint64_t n;
    double seconds;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pair pairs[PAIRS];
static size_t n_pair;

/* The lock is held. NULL when there are too many. */
static struct pair *
place(const char *handler, const char *method)
{
    for (size_t i = 0; i < n_pair; i++)
        if (strcmp(pairs[i].handler, handler) == 0
            && strcmp(pairs[i].method, method) == 0)
            return &pairs[i];
    if (n_pair == PAIRS)
        return NULL;
    pairs[n_pair] = (struct pair){.handler = handler, .method = method};
    return &pairs[n_pair++];
}

void
http_count(const char *handler, const char *method, int status,
           double seconds)
{
    pthread_mutex_lock(&lock);
    struct pair *p = place(handler, method);
    if (p != NULL && status >= 0 && status / 100 < N_CLASS) {
        p->by_class[status / 100]++;
        p->n++;
        p->seconds += seconds;
        for (size_t i = 0; i < N_EDGE; i++)
            p->bucket[i] += seconds <= edge[i];
    }
    pthread_mutex_unlock(&lock);
}

static int
put_requests(struct buf *out)
{
    int rc = buf_puts(out, "# HELP http_requests_total Requests by path.\n"
                      "# TYPE http_requests_total counter\n");
    for (const struct pair *p = pairs; p < pairs + n_pair; p++)
        for (int c = 0; rc == 0 && c < N_CLASS; c++)
            if (p->by_class[c] > 0)
                rc = buf_printf(out, "http_requests_total{handler=\"%s\","
                                "method=\"%s\",status=\"%dxx\"} %" PRIu64 "\n",
                                p->handler, p->method, c, p->by_class[c]);
    return rc;
}

static int
put_durations(struct buf *out, const struct pair *p)
{
    const char *name = "http_request_duration_seconds";
    int rc = 0;

    for (size_t i = 0; rc == 0 && i <= N_EDGE; i++) {
        rc = buf_printf(out, "%s_bucket{handler=\"%s\",method=\"%s\",le=\"",
                        name, p->handler, p->method);
        if (rc == 0)
            rc = i < N_EDGE
                     ? buf_printf(out, "%g\"} %" PRIu64 "\n", edge[i],
                                  p->bucket[i])
                     : buf_printf(out, "+Inf\"} %" PRIu64 "\n", p->n);
    }
    if (rc == 0)
        rc = buf_printf(out, "%s_sum{handler=\"%s\",method=\"%s\"} %.17g\n",
                        name, p->handler, p->method, p->seconds);
    if (rc == 0)
        rc = buf_printf(out, "%s_count{handler=\"%s\",method=\"%s\"} %" PRIu64
                        "\n", name, p->handler, p->method, p->n);
    return rc;
}

int
http_put(struct buf *out)
{
    pthread_mutex_lock(&lock);
    int rc = put_requests(out);
    if (rc == 0)
        rc = buf_puts(out, "# HELP http_request_duration_seconds Time from the "
                      "request to the end of its reply.\n"
                      "# TYPE http_request_duration_seconds histogram\n");
    for (size_t i = 0; rc == 0 && i < n_pair; i++)
        rc = put_durations(out, &pairs[i]);
    pthread_mutex_unlock(&lock);
    return rc;
}
