/*
 * An HTTP/1.1 reply, parsed as it arrives: status, length or chunks, and the
 * events of a text/event-stream. Only what a client of Sirocco needs.
 */
#ifndef CTL_HTTP_REPLY_H
#define CTL_HTTP_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

/* The text behind "data: " of an event's line. Valid during the call. */
typedef void (*http_event_fn)(void *arg, const char *data, size_t n);

enum http_state {
    HTTP_HEAD,      /* status line and fields */
    HTTP_SIZE,      /* a chunk's size line */
    HTTP_CHUNK,
    HTTP_CHUNK_END, /* the line end behind a chunk */
    HTTP_TRAILER,
    HTTP_BODY,      /* `left` bytes, or up to the end of the connection */
    HTTP_DONE
};

struct http_reply {
    enum http_state state;
    int status;               /* 0 until the status line is there */
    bool chunked, events, keep_alive, sized;
    uint64_t left;            /* of the body or the chunk */
    struct buf line;          /* an incomplete line */
    struct buf body;          /* when it is no event stream */
    http_event_fn on_event;
    void *arg;
};

/* Makes r ready for the next reply; keeps its memory. */
void http_reply_reset(struct http_reply *r, http_event_fn fn, void *arg);
void http_reply_free(struct http_reply *r);

/* Takes n bytes. Returns 0 (see state), ERR_FORMAT or ERR_NOMEM. What follows
 * the end of the reply is an error: requests are not pipelined. */
int http_reply_feed(struct http_reply *r, const char *p, size_t n);
/* The peer has closed. True when the reply is complete. */
bool http_reply_close(struct http_reply *r);

#endif
