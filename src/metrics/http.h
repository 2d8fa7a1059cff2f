/* http_*: requests by path, as the middleware that vLLM uses counts them. */
#ifndef METRICS_HTTP_H
#define METRICS_HTTP_H

#include "base/buf.h"

/* Counts a request that is over. handler and method live for ever; handlers
 * beyond the first 64 pairs are not counted. Any thread; locks briefly. */
void http_count(const char *handler, const char *method, int status,
                double seconds);

/* Appends http_requests_total and http_request_duration_seconds. 0 or
 * ERR_NOMEM. Any thread. */
int http_put(struct buf *out);

#endif
