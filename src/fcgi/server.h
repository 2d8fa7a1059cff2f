/*
 * What the files of this room share: the server, its acceptors and its reply
 * threads.
 */
#ifndef FCGI_SERVER_H
#define FCGI_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/mem.h"
#include "fcgi/fcgi.h"

struct reply; /* a reply thread */

struct fcgi_server {
    struct fcgi_options o;
    int listen_fd;
    char *path;             /* of a socket of our own, NULL if inherited */
    uint64_t inode, device; /* of that path */
    int stop_event;         /* readable once no more may be accepted */
    atomic_bool stopping;
    atomic_size_t open;     /* connections accepted and not yet closed */
    pthread_t *acceptor;
    int n_acceptors;        /* threads running */
    struct reply **reply;
    int n_reply;
    atomic_uint next_reply;
};

/* Listens as o says. Sets listen_fd, path, inode and device. */
int listen_open(struct fcgi_server *s, struct err *e);
/* Closes the socket and removes its path, if that is still ours. */
void listen_close(struct fcgi_server *s);

/* Body of an acceptor thread; arg is the server. */
void *acceptor_run(void *arg);

/* Starts a reply thread; NULL when the system refuses. out_limit as in
 * fcgi_options. */
struct reply *reply_create(size_t out_limit);
/* Ends the thread; connections it still has are closed. */
void reply_destroy(struct reply *rt);

/* A stream for connection fd, not yet handed to its reply thread. Takes fd
 * and arena over (unless it fails: NULL). The server's count of open
 * connections goes down when it is freed. */
struct fcgi_stream *stream_create(struct fcgi_server *s, int fd, uint16_t id,
                                  struct arena *arena,
                                  const struct fcgi_stream_ops *ops,
                                  void *owner);
/* Hands s to its reply thread; no call from here on, but posts. */
void stream_adopt(struct fcgi_stream *s);
/* Sends a whole answer on a new stream and closes it, here or, if the peer
 * does not read fast enough, in the reply thread. */
void stream_answer(struct fcgi_stream *s, int status, const char *type,
                   const char *headers, struct str body);

#endif
