/* process_*: what every Prometheus client library says of its process. */
#ifndef METRICS_PROCESS_H
#define METRICS_PROCESS_H

#include "base/buf.h"

/* Appends them; those that the system does not tell are left out. 0 or
 * ERR_NOMEM. Any thread. */
int process_put(struct buf *out);

#endif
