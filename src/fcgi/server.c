#include "config.h"

#include "fcgi/server.h"

#include <errno.h>
#include <fcgiapp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"

static int
start_threads(struct fcgi_server *s, struct err *e)
{
    for (; s->n_reply < s->o.reply_threads; s->n_reply++) {
        s->reply[s->n_reply] = reply_create(s->o.out_limit);
        if (s->reply[s->n_reply] == NULL)
            return err_set(e, ERR_IO, "cannot start a reply thread");
    }
    for (; s->n_acceptors < s->o.acceptors; s->n_acceptors++) {
        int rc = pthread_create(&s->acceptor[s->n_acceptors], NULL,
                                acceptor_run, s);
        if (rc != 0)
            return err_set(e, ERR_IO, "cannot start an acceptor: %s",
                           strerror(rc));
    }
    return 0;
}

int
fcgi_start(const struct fcgi_options *o, struct fcgi_server **out,
           struct err *e)
{
    if (o->acceptors < 1 || o->reply_threads < 1)
        return err_set(e, ERR_RANGE, "acceptors and reply threads: at least 1");
    if (FCGX_Init() != 0)
        return err_set(e, ERR_IO, "libfcgi does not start");
    struct fcgi_server *s = mem_xcalloc(1, sizeof *s);
    s->o = *o;
    s->listen_fd = -1;
    s->acceptor = mem_xcalloc((size_t)o->acceptors, sizeof *s->acceptor);
    s->reply = mem_xcalloc((size_t)o->reply_threads, sizeof(struct reply *));
    s->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = s->stop_event < 0
                 ? err_set(e, ERR_IO, "eventfd: %s", strerror(errno))
                 : listen_open(s, e);
    if (rc == 0)
        rc = start_threads(s, e);
    if (rc != 0) {
        fcgi_destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

void
fcgi_stop_accepting(struct fcgi_server *s)
{
    uint64_t one = 1;
    if (atomic_exchange(&s->stopping, true))
        return;
    /* Never read again: every acceptor finds it readable. */
    if (write(s->stop_event, &one, sizeof one) != sizeof one)
        log_error("cannot wake the acceptors: %s", strerror(errno));
    for (int i = 0; i < s->n_acceptors; i++)
        pthread_join(s->acceptor[i], NULL);
    s->n_acceptors = 0;
    listen_close(s);
}

size_t
fcgi_open_streams(const struct fcgi_server *s)
{
    return atomic_load(&s->open);
}

void
fcgi_destroy(struct fcgi_server *s)
{
    if (s->stop_event >= 0)
        fcgi_stop_accepting(s);
    for (int i = 0; i < s->n_reply; i++)
        reply_destroy(s->reply[i]);
    if (s->stop_event >= 0)
        close(s->stop_event);
    free(s->acceptor);
    free(s->reply);
    free(s);
}
