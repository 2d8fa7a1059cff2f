/*
 * Reply threads and their streams.
 *
 * DESIGN. A reply thread runs one loop. Other threads reach it through its
 * inbox, an array under a mutex that is held for an append or a swap only, so
 * a post costs tens of nanoseconds and cannot fail. Everything else about a
 * stream belongs to its reply thread.
 *
 * Output is framed into the stream's buffer as it is written; writes of one
 * turn share a record, whose length is filled in when it is sealed. At the end
 * of every turn the streams on the dirty list are sent. What the socket does
 * not take stays in the buffer and EPOLLOUT is asked for until it is gone.
 *
 * States: new (made by an acceptor; posts wait in `early`), live (adopted),
 * then gone (the peer left: descriptor closed, owner told) or closing (owner
 * done, output still leaving). A stream is freed when its owner has closed it
 * and its output has left or cannot leave.
 *
 * Invariants: 1. the owner is called only in the reply thread, never from
 * within a call it made; 2. `closed` is called at most once, and never after
 * fcgi_stream_close; 3. watch.fd >= 0 until gone; 4. a stream is freed at the
 * end of a turn, never within a call of its owner or before the turn's
 * messages are delivered.
 */
#include "config.h"

#include "fcgi/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "fcgi/head.h"

#define RECORD_MAX 65528 /* content; a multiple of 8 needs no padding */
#define TICK_MS 50
/* How long a peer may take nothing of the rest of a finished reply. */
#define LINGER_NS 60000000000u
/* A buffer that grew beyond this is given back when it has been sent. */
#define IDLE_BUFFER 4096
#define NO_RECORD SIZE_MAX

struct fcgi_stream {
    struct loop_watch watch;
    struct reply *rt;
    struct fcgi_server *server;
    struct list link, dirty_link;
    const struct fcgi_stream_ops *ops;
    void *owner;
    struct arena *arena;
    struct buf out;      /* framed bytes; the first `sent` have left */
    size_t sent;
    size_t record;       /* head of the open record in out, or NO_RECORD */
    struct buf early;    /* messages posted before the stream was live */
    atomic_uint queued;  /* messages in the inbox */
    unsigned tick_ms;
    uint64_t written_ns, progress_ns;
    uint16_t id;
    bool live, gone, closing;
    bool overrun;        /* out_limit or memory: to be given up */
    bool blocked;        /* EPOLLOUT is asked for */
};

enum kind { POST, ADOPT, STOP };

struct message {
    enum kind kind;
    struct fcgi_stream *s; /* NULL: dropped */
    void *body;
};

struct inbox {
    struct message *m;
    size_t n, cap;
};

struct reply {
    struct loop *loop;
    pthread_t thread;
    pthread_mutex_t lock; /* guards in */
    struct inbox in;
    struct inbox turn;    /* being delivered */
    struct list streams, dirty;
    size_t out_limit;
};

/* --- inbox ------------------------------------------------------------------ */

/* A message cannot be refused, so when memory is out this waits for some. */
static void
wait_for_memory(void)
{
    struct timespec t = {0, 1000000};
    nanosleep(&t, NULL);
}

static void
send_message(struct reply *rt, struct message m)
{
    pthread_mutex_lock(&rt->lock);
    while (rt->in.n == rt->in.cap) {
        size_t cap = rt->in.cap ? rt->in.cap * 2 : 256;
        void *p = realloc(rt->in.m, cap * sizeof *rt->in.m);
        if (p == NULL) {
            pthread_mutex_unlock(&rt->lock);
            wait_for_memory();
            pthread_mutex_lock(&rt->lock);
            continue;
        }
        rt->in.m = p;
        rt->in.cap = cap;
    }
    rt->in.m[rt->in.n++] = m;
    pthread_mutex_unlock(&rt->lock);
    loop_wake(rt->loop);
}

void
fcgi_stream_post(struct fcgi_stream *s, void *message)
{
    atomic_fetch_add(&s->queued, 1);
    send_message(s->rt, (struct message){POST, s, message});
}

void
stream_adopt(struct fcgi_stream *s)
{
    send_message(s->rt, (struct message){ADOPT, s, NULL});
}

/* Forgets what is still in the inbox for s. */
static void
drop_messages(const struct fcgi_stream *s)
{
    struct reply *rt = s->rt;
    pthread_mutex_lock(&rt->lock);
    for (size_t i = 0; i < rt->in.n; i++)
        if (rt->in.m[i].s == s)
            rt->in.m[i].s = NULL;
    pthread_mutex_unlock(&rt->lock);
}

/* --- output ----------------------------------------------------------------- */

static void
put_head(unsigned char *p, unsigned type, uint16_t id, size_t n)
{
    p[0] = 1;
    p[1] = (unsigned char)type;
    p[2] = (unsigned char)(id >> 8);
    p[3] = (unsigned char)id;
    p[4] = (unsigned char)(n >> 8);
    p[5] = (unsigned char)n;
    p[6] = p[7] = 0;
}

static void
seal(struct fcgi_stream *s)
{
    if (s->record == NO_RECORD)
        return;
    size_t n = s->out.len - s->record - FCGI_REC_HEAD;
    put_head((unsigned char *)s->out.data + s->record, FCGI_REC_STDOUT, s->id,
             n);
    s->record = NO_RECORD;
}

/* Appends content, opening records as needed. */
static int
frame(struct fcgi_stream *s, const char *p, size_t n)
{
    while (n > 0) {
        if (s->record == NO_RECORD) {
            if (buf_reserve(&s->out, FCGI_REC_HEAD) != 0)
                return ERR_NOMEM;
            s->record = s->out.len;
            s->out.len += FCGI_REC_HEAD;
        }
        size_t room = RECORD_MAX - (s->out.len - s->record - FCGI_REC_HEAD);
        size_t part = n < room ? n : room;
        if (buf_append(&s->out, p, part) != 0)
            return ERR_NOMEM;
        p += part;
        n -= part;
        if (part == room)
            seal(s);
    }
    return 0;
}

static int
frame_status(struct fcgi_stream *s, int status, const char *type,
             const char *headers)
{
    static const struct {
        int status;
        const char *reason;
    } known[] = {
        {200, "OK"}, {204, "No Content"}, {400, "Bad Request"},
        {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"},
        {405, "Method Not Allowed"}, {408, "Request Timeout"},
        {409, "Conflict"}, {411, "Length Required"},
        {413, "Content Too Large"}, {415, "Unsupported Media Type"},
        {422, "Unprocessable Content"}, {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"}, {501, "Not Implemented"},
        {503, "Service Unavailable"}, {504, "Gateway Timeout"},
    };
    const char *reason = "Unknown";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status)
            reason = known[i].reason;
    struct buf b = {0};
    int rc = buf_printf(&b, "Status: %d %s\r\n", status, reason);
    if (rc == 0 && type != NULL)
        rc = buf_printf(&b, "Content-Type: %s\r\n", type);
    if (rc == 0 && headers != NULL)
        rc = buf_puts(&b, headers);
    if (rc == 0)
        rc = buf_puts(&b, "\r\n");
    if (rc == 0)
        rc = frame(s, b.data, b.len);
    buf_free(&b);
    return rc;
}

/* End of standard output and of the request. */
static int
frame_end(struct fcgi_stream *s)
{
    unsigned char end[3 * FCGI_REC_HEAD] = {0};
    seal(s);
    put_head(end, FCGI_REC_STDOUT, s->id, 0);
    put_head(end + FCGI_REC_HEAD, FCGI_REC_END, s->id, 8);
    return buf_append(&s->out, end, sizeof end);
}

/* Sends what the socket takes. Returns 0 when all has left, ERR_AGAIN, or
 * ERR_CLOSED. */
static int
send_out(struct fcgi_stream *s)
{
    seal(s);
    while (s->sent < s->out.len) {
        ssize_t n = send(s->watch.fd, s->out.data + s->sent,
                         s->out.len - s->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            return ERR_CLOSED;
        if (n < 0) {
            if (s->sent >= s->out.len / 2) {
                buf_consume(&s->out, s->sent);
                s->sent = 0;
            }
            return ERR_AGAIN;
        }
        s->sent += (size_t)n;
        s->progress_ns = clock_ns();
    }
    s->sent = s->out.len = 0;
    if (s->out.cap > IDLE_BUFFER)
        buf_free(&s->out);
    return 0;
}

/* --- ends ------------------------------------------------------------------- */

static void
stream_free(struct fcgi_stream *s)
{
    if (s->live && s->watch.fd >= 0)
        loop_del(s->rt->loop, &s->watch);
    if (s->watch.fd >= 0)
        close(s->watch.fd);
    list_remove(&s->link);
    list_remove(&s->dirty_link);
    if (atomic_load(&s->queued) > 0)
        drop_messages(s);
    arena_destroy(s->arena);
    buf_free(&s->out);
    buf_free(&s->early);
    atomic_fetch_sub(&s->server->open, 1);
    free(s);
}

/* The peer went away, or is given up. Frees s if its owner is done. */
static void
peer_gone(struct fcgi_stream *s)
{
    if (s->gone)
        return;
    s->gone = true;
    loop_del(s->rt->loop, &s->watch);
    close(s->watch.fd);
    s->watch.fd = -1;
    s->record = NO_RECORD;
    s->sent = 0;
    buf_free(&s->out);
    if (s->closing)
        stream_free(s);
    else
        s->ops->closed(s->owner);
}

static void
flush(struct fcgi_stream *s)
{
    if (s->gone) {
        if (s->closing)
            stream_free(s);
        return;
    }
    int rc = s->overrun ? ERR_CLOSED : send_out(s);
    if (rc == ERR_CLOSED) {
        peer_gone(s);
    } else if (rc == 0 && s->closing) {
        stream_free(s);
    } else if (s->blocked != (rc == ERR_AGAIN)) {
        s->blocked = rc == ERR_AGAIN;
        uint32_t events = EPOLLIN | EPOLLRDHUP;
        if (s->blocked)
            events |= EPOLLOUT;
        if (loop_mod(s->rt->loop, &s->watch, events) != 0)
            peer_gone(s);
    }
}

static void
flush_dirty(struct reply *rt)
{
    while (!list_empty(&rt->dirty)) {
        struct fcgi_stream *s =
            list_entry(rt->dirty.next, struct fcgi_stream, dirty_link);
        list_remove(&s->dirty_link);
        flush(s);
    }
}

static void
mark_dirty(struct fcgi_stream *s)
{
    if (list_empty(&s->dirty_link))
        list_append(&s->rt->dirty, &s->dirty_link);
}

/* --- what the owner calls ---------------------------------------------------- */

void
fcgi_stream_start(struct fcgi_stream *s, int status, const char *type,
                  const char *headers)
{
    if (s->gone || s->overrun)
        return;
    s->overrun = frame_status(s, status, type, headers) != 0;
    s->written_ns = clock_ns();
    mark_dirty(s);
}

void
fcgi_stream_write(struct fcgi_stream *s, struct str bytes)
{
    if (s->gone || s->overrun || bytes.n == 0)
        return;
    /* A long reply may pass the limit in one turn; a peer that has not read
     * enough of it by the next write has lost it. */
    s->overrun = (s->blocked && fcgi_stream_pending(s) > s->rt->out_limit)
                 || frame(s, bytes.p, bytes.n) != 0;
    s->written_ns = clock_ns();
    mark_dirty(s);
}

void
fcgi_stream_close(struct fcgi_stream *s)
{
    s->closing = true;
    s->progress_ns = clock_ns();
    if (!s->gone)
        s->overrun |= frame_end(s) != 0;
    arena_destroy(s->arena);
    s->arena = NULL;
    mark_dirty(s);
}

void
fcgi_stream_tick(struct fcgi_stream *s, unsigned ms)
{
    s->tick_ms = ms;
    s->written_ns = clock_ns();
}

size_t
fcgi_stream_pending(const struct fcgi_stream *s)
{
    return s->out.len - s->sent;
}

/* --- the loop ---------------------------------------------------------------- */

/* Whether the peer gave the request up. Nothing else is expected from it, so
 * other bytes are read away. */
static bool
peer_aborted(struct fcgi_stream *s)
{
    unsigned char p[256];
    ssize_t n = recv(s->watch.fd, p, sizeof p, MSG_DONTWAIT);
    if (n < 0)
        return errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR;
    return n == 0
           || (n >= FCGI_REC_HEAD && p[0] == 1 && p[1] == FCGI_REC_ABORT);
}

static void
on_socket(void *arg, uint32_t events)
{
    struct fcgi_stream *s = arg;
    struct reply *rt = s->rt;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)
        || (events & EPOLLIN && peer_aborted(s)))
        peer_gone(s);
    else if (events & EPOLLOUT)
        flush(s);
    flush_dirty(rt);
}

static void
adopt(struct fcgi_stream *s)
{
    struct reply *rt = s->rt;
    list_append(&rt->streams, &s->link);
    s->live = true;
    uint32_t events = EPOLLIN | EPOLLRDHUP;
    if (s->closing) {
        s->blocked = true;
        events |= EPOLLOUT;
    }
    if (loop_add(rt->loop, &s->watch, events) != 0) {
        bool done = s->closing;
        peer_gone(s);
        if (done)
            return;
    }
    for (size_t i = 0; i < s->early.len && !s->closing; i += sizeof(void *)) {
        void *body;
        memcpy(&body, s->early.data + i, sizeof body);
        s->ops->post(s->owner, body);
    }
    buf_free(&s->early);
}

static void
deliver(struct reply *rt, struct message m)
{
    struct fcgi_stream *s = m.s;
    if (m.kind == STOP) {
        loop_stop(rt->loop);
    } else if (s != NULL && m.kind == ADOPT) {
        adopt(s);
    } else if (s != NULL) {
        atomic_fetch_sub(&s->queued, 1);
        if (s->closing)
            return;
        if (s->live)
            s->ops->post(s->owner, m.body);
        else
            while (buf_append(&s->early, &m.body, sizeof m.body) != 0)
                wait_for_memory();
    }
}

static void
on_wake(void *arg)
{
    struct reply *rt = arg;
    pthread_mutex_lock(&rt->lock);
    struct inbox in = rt->in;
    rt->in = rt->turn;
    rt->in.n = 0;
    rt->turn = in;
    pthread_mutex_unlock(&rt->lock);
    for (size_t i = 0; i < rt->turn.n; i++)
        deliver(rt, rt->turn.m[i]);
    rt->turn.n = 0;
    flush_dirty(rt);
}

static void
on_tick(void *arg)
{
    struct reply *rt = arg;
    uint64_t now = clock_ns();
    list_for_each_safe(it, &rt->streams) {
        struct fcgi_stream *s = list_entry(it, struct fcgi_stream, link);
        if (s->gone)
            continue;
        if (s->closing) {
            if (now - s->progress_ns > LINGER_NS)
                peer_gone(s);
        } else if (s->tick_ms != 0 && s->ops->tick != NULL
                   && now - s->written_ns >= s->tick_ms * 1000000ull) {
            s->written_ns = now;
            s->ops->tick(s->owner);
        }
    }
    flush_dirty(rt);
}

static void *
reply_run(void *arg)
{
    struct reply *rt = arg;
    loop_run(rt->loop);
    list_for_each_safe(it, &rt->streams) {
        struct fcgi_stream *s = list_entry(it, struct fcgi_stream, link);
        if (!s->gone)
            peer_gone(s);
    }
    flush_dirty(rt);
    while (!list_empty(&rt->streams))
        stream_free(
            list_entry(rt->streams.next, struct fcgi_stream, link));
    return NULL;
}

struct reply *
reply_create(size_t out_limit)
{
    struct reply *rt = calloc(1, sizeof *rt);
    if (rt == NULL)
        return NULL;
    list_init(&rt->streams);
    list_init(&rt->dirty);
    pthread_mutex_init(&rt->lock, NULL);
    rt->out_limit = out_limit;
    rt->loop = loop_create();
    if (rt->loop != NULL) {
        loop_on_wake(rt->loop, on_wake, rt);
        loop_on_tick(rt->loop, TICK_MS, on_tick, rt);
    }
    if (rt->loop == NULL
        || pthread_create(&rt->thread, NULL, reply_run, rt) != 0) {
        loop_free(rt->loop);
        free(rt);
        return NULL;
    }
    return rt;
}

void
reply_destroy(struct reply *rt)
{
    send_message(rt, (struct message){STOP, NULL, NULL});
    pthread_join(rt->thread, NULL);
    loop_free(rt->loop);
    pthread_mutex_destroy(&rt->lock);
    free(rt->in.m);
    free(rt->turn.m);
    free(rt);
}

/* --- what the acceptors call -------------------------------------------------- */

struct fcgi_stream *
stream_create(struct fcgi_server *server, int fd, uint16_t id,
              struct arena *arena, const struct fcgi_stream_ops *ops,
              void *owner)
{
    struct fcgi_stream *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    unsigned turn = atomic_fetch_add(&server->next_reply, 1);
    s->watch = (struct loop_watch){fd, on_socket, s};
    s->rt = server->reply[turn % (unsigned)server->n_reply];
    s->server = server;
    s->ops = ops;
    s->owner = owner;
    s->arena = arena;
    s->id = id;
    s->record = NO_RECORD;
    s->written_ns = s->progress_ns = clock_ns();
    list_init(&s->link);
    list_init(&s->dirty_link);
    return s;
}

void
stream_answer(struct fcgi_stream *s, int status, const char *type,
              const char *headers, struct str body)
{
    s->closing = true;
    int rc = frame_status(s, status, type, headers);
    if (rc == 0)
        rc = frame(s, body.p, body.n);
    if (rc == 0)
        rc = frame_end(s);
    if (rc == 0)
        rc = send_out(s);
    if (rc == ERR_AGAIN)
        stream_adopt(s);
    else
        stream_free(s);
}
