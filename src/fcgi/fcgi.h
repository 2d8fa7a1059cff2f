/*
 * The FastCGI responder. A few acceptor threads accept through libfcgi, read
 * parameters and body under limits and call the handler; then the connection
 * leaves libfcgi and belongs to a reply thread, which drives all its streams
 * through epoll, frames the records, and notices a closed peer at once. It
 * knows bytes, not what they mean.
 *
 * Life of a connection: handler (acceptor thread) -> either fcgi_answer, a
 * whole reply at once, or fcgi_stream_open, then posts from any thread, each
 * handed to the stream's owner in its reply thread, which writes.
 */
#ifndef FCGI_FCGI_H
#define FCGI_FCGI_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

struct fcgi_server;
struct fcgi_request; /* lives for the handler call */
struct fcgi_stream;  /* lives until fcgi_stream_close */

struct fcgi_options {
    const char *socket;    /* path; or "fd:N", an inherited listening socket */
    unsigned mode;         /* of the socket, e.g. 0660 */
    const char *group;     /* of the socket, NULL = as it comes */
    int backlog;
    int acceptors;
    int reply_threads;
    size_t max_body;       /* bytes; larger bodies are answered 413 */
    size_t max_params;     /* bytes of all parameters */
    size_t out_limit;      /* bytes queued for a peer that does not read; a
                              write beyond it closes the stream (one write
                              alone may be longer) */
    void (*handler)(void *arg, struct fcgi_request *r);
    void *arg;
};

/* Whether fcgi_start could listen on o->socket now: nobody else does, its
 * directory can be written, its group exists. For a check before a long load.
 * Changes nothing. */
int fcgi_check(const struct fcgi_options *o, struct err *e);

/* Listens and starts the threads. A live server on the same path is an error;
 * a stale socket is replaced. Signals must already be blocked in the caller. */
int fcgi_start(const struct fcgi_options *o, struct fcgi_server **out,
               struct err *e);
/* No new connections (they wait in the backlog of an inherited socket). */
void fcgi_stop_accepting(struct fcgi_server *s);
/* Connections accepted and not yet closed; 0 once all replies have left. */
size_t fcgi_open_streams(const struct fcgi_server *s);
/* Stops all threads; open connections are closed. */
void fcgi_destroy(struct fcgi_server *s);

/* --- in the handler -------------------------------------------------------- */
/* A parameter ("REQUEST_METHOD", "HTTP_ACCEPT"), {NULL,0} if it is not there. */
struct str fcgi_param(const struct fcgi_request *r, const char *name);
struct str fcgi_body(const struct fcgi_request *r);
/* Arena of the request: dies after the answer, or with the stream. */
struct arena *fcgi_arena(const struct fcgi_request *r);

/* Whole reply. headers: extra header lines, each ending in \r\n, or NULL. The
 * body is copied. */
void fcgi_answer(struct fcgi_request *r, int status, const char *type,
                 const char *headers, struct str body);

/* What the owner of a stream provides; all called in the reply thread, and none
 * before the handler has returned. */
struct fcgi_stream_ops {
    /* For each fcgi_stream_post, in order. */
    void (*post)(void *owner, void *message);
    /* The peer went away, or out_limit was exceeded: once, and not after
     * fcgi_stream_close. Writes are ignored from now on; the owner still has
     * to call fcgi_stream_close, now or later. */
    void (*closed)(void *owner);
    /* After interval of fcgi_stream_tick; NULL if not used. */
    void (*tick)(void *owner);
};

/* Takes the connection over. The request's arena now belongs to the stream;
 * parameters, body and arena stay valid until the handler returns, and no
 * call of ops comes earlier: then the reply thread watches the peer and
 * delivers what has been posted. NULL when memory is out (the request must
 * then be answered). */
struct fcgi_stream *fcgi_stream_open(struct fcgi_request *r,
                                     const struct fcgi_stream_ops *ops,
                                     void *owner);

/* --- any thread ------------------------------------------------------------ */
/* Hands message to ops->post in the reply thread. Never blocks and never
 * fails while the stream is open. */
void fcgi_stream_post(struct fcgi_stream *s, void *message);

/* --- the reply thread ------------------------------------------------------ */
/* Status line and headers; once, before the first write. */
void fcgi_stream_start(struct fcgi_stream *s, int status, const char *type,
                       const char *headers);
/* Queues bytes; they leave at the end of the loop turn, or as the peer reads. */
void fcgi_stream_write(struct fcgi_stream *s, struct str bytes);
/* Ends the reply properly (if the peer is still there), frees the stream and
 * the request's arena. Messages not yet delivered are dropped; nothing may be
 * posted any more. */
void fcgi_stream_close(struct fcgi_stream *s);
/* Calls ops->tick after about ms of silence on the stream; 0 = never. */
void fcgi_stream_tick(struct fcgi_stream *s, unsigned ms);
/* Bytes queued and not yet taken by the peer. */
size_t fcgi_stream_pending(const struct fcgi_stream *s);

#endif
