/*
 * Images by http(s) URL, from hosts that the operator allows and never from
 * addresses of the own network: the name is resolved here, every address is
 * checked, and the connection goes to a checked address. Redirects pass the
 * same checks. Any thread; a call blocks for at most the time limit.
 */
#ifndef IMAGE_FETCH_H
#define IMAGE_FETCH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct sockaddr;

struct fetch_options {
    /* Hosts, separated by commas or spaces: "a.example" is that host alone,
     * ".example" and "*.example" every host below it, "*" all of them. NULL or
     * empty: nothing may be fetched. Kept, not copied. */
    const char *hosts;
    size_t max_bytes;
    unsigned timeout_ms;    /* of the whole fetch, redirects included */
    /* Says whether an address may be connected to; NULL = fetch_is_public.
     * For tests against a server on the loopback. */
    bool (*may_connect)(const struct sockaddr *sa);
};

/* Fetches url and appends the body to out. Errors are fit for the client:
 * ERR_UNSUPPORTED (not in this build, or no host allowed), ERR_RANGE (host or
 * address not allowed), ERR_FORMAT (not a good URL), ERR_LIMIT (too large),
 * ERR_IO (network, status other than 200, too slow), ERR_NOMEM. */
int fetch_get(const struct fetch_options *o, struct str url, struct buf *out,
              struct err *e);

/* True when host is in the list of fetch_options.hosts. */
bool fetch_host_allowed(const char *hosts, const char *host);

/* True for addresses of the public internet: not private, loopback,
 * link-local, multicast, documentation, benchmarking or translated forms of
 * those. */
bool fetch_is_public(const struct sockaddr *sa);

#endif
