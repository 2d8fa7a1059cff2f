/*
 * The listening socket: one of our own, with owner and mode set before it can
 * be found under its name, or one that was handed down. libfcgi's
 * FCGX_OpenSocket is not used: it unlinks whatever has the name, leaves the
 * mode to the umask and ends the process when it fails.
 */
#include "config.h"

#include "fcgi/server.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int
listen_inherited(struct fcgi_server *s, const char *number, struct err *e)
{
    char *end;
    long fd = strtol(number, &end, 10);
    int listening = 0;
    socklen_t len = sizeof listening;
    if (end == number || *end != '\0' || fd < 0 || fd > 1 << 20)
        return err_set(e, ERR_FORMAT, "socket fd:%s: not a number", number);
    if (getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) != 0
        || !listening)
        return err_set(e, ERR_IO, "socket fd:%s is not a listening socket",
                       number);
    s->listen_fd = (int)fd;
    return 0;
}

/* A socket that nobody listens on is left over from a crash. */
static int
refuse_live(const char *path, const struct sockaddr_un *at, struct err *e)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return err_set(e, ERR_STATE, "%s exists and is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(e, ERR_IO, "socket: %s", strerror(errno));
    bool live = connect(fd, (const struct sockaddr *)at, sizeof *at) == 0
                || errno == EAGAIN;
    close(fd);
    if (live)
        return err_set(e, ERR_STATE, "another server listens on %s", path);
    return 0;
}

/* The directory part of path in out. */
static void
directory_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL)
        snprintf(out, size, ".");
    else
        snprintf(out, size, "%.*s", (int)(slash - path) + (slash == path),
                 path);
}

int
fcgi_check(const struct fcgi_options *o, struct err *e)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char dir[sizeof at.sun_path];
    if (strncmp(o->socket, "fd:", 3) == 0)
        return 0;
    if (strlen(o->socket) >= sizeof at.sun_path)
        return err_set(e, ERR_LIMIT, "socket path is too long: %s",
                       o->socket);
    memcpy(at.sun_path, o->socket, strlen(o->socket));
    directory_of(o->socket, dir, sizeof dir);
    if (access(dir, W_OK | X_OK) != 0)
        return err_set(e, ERR_IO, "cannot make socket %s: %s", o->socket,
                       strerror(errno));
    if (o->group != NULL && getgrnam(o->group) == NULL)
        return err_set(e, ERR_NOENT, "no group \"%s\" for %s", o->group,
                       o->socket);
    return refuse_live(o->socket, &at, e);
}

static int
set_access(const struct fcgi_options *o, const char *path, struct err *e)
{
    if (o->group != NULL) {
        errno = 0;
        const struct group *g = getgrnam(o->group);
        if (g == NULL || chown(path, (uid_t)-1, g->gr_gid) != 0)
            return err_set(e, ERR_IO, "cannot give %s to group %s: %s",
                           o->socket, o->group, strerror(errno));
    }
    if (chmod(path, o->mode) != 0)
        return err_set(e, ERR_IO, "cannot set the mode of %s: %s", o->socket,
                       strerror(errno));
    return 0;
}

/* Binds under another name and renames when all is right, so that nobody
 * connects to a socket that has not its mode yet. */
static int
bind_and_rename(struct fcgi_server *s, int fd, struct err *e)
{
    const struct fcgi_options *o = &s->o;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int n = snprintf(at.sun_path, sizeof at.sun_path, "%s.%ld", o->socket,
                     (long)getpid());
    if (n < 0 || (size_t)n >= sizeof at.sun_path)
        return err_set(e, ERR_LIMIT, "socket path is too long: %s",
                       o->socket);
    unlink(at.sun_path);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0)
        return err_set(e, ERR_IO, "cannot make socket %s: %s", o->socket,
                       strerror(errno));
    int rc = set_access(o, at.sun_path, e);
    if (rc == 0 && listen(fd, o->backlog) != 0)
        rc = err_set(e, ERR_IO, "cannot listen on %s: %s", o->socket,
                     strerror(errno));
    struct stat st = {0};
    if (rc == 0
        && (stat(at.sun_path, &st) != 0
            || rename(at.sun_path, o->socket) != 0))
        rc = err_set(e, ERR_IO, "cannot rename %s to %s: %s", at.sun_path,
                     o->socket, strerror(errno));
    if (rc != 0) {
        unlink(at.sun_path);
        return rc;
    }
    s->inode = st.st_ino;
    s->device = st.st_dev;
    return 0;
}

static int
listen_own(struct fcgi_server *s, struct err *e)
{
    int rc = fcgi_check(&s->o, e);
    if (rc != 0)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(e, ERR_IO, "socket: %s", strerror(errno));
    rc = bind_and_rename(s, fd, e);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    s->listen_fd = fd;
    s->path = mem_xstrdup(s->o.socket);
    return 0;
}

int
listen_open(struct fcgi_server *s, struct err *e)
{
    int rc = strncmp(s->o.socket, "fd:", 3) == 0
                 ? listen_inherited(s, s->o.socket + 3, e)
                 : listen_own(s, e);
    if (rc != 0)
        return rc;
    /* Several acceptors wake for one connection; the late ones must not
     * block. */
    int flags = fcntl(s->listen_fd, F_GETFL);
    if (flags < 0 || fcntl(s->listen_fd, F_SETFL, flags | O_NONBLOCK) != 0) {
        rc = err_set(e, ERR_IO, "fcntl: %s", strerror(errno));
        listen_close(s);
    }
    return rc;
}

void
listen_close(struct fcgi_server *s)
{
    struct stat st;
    if (s->path != NULL && stat(s->path, &st) == 0 && st.st_ino == s->inode
        && st.st_dev == s->device)
        unlink(s->path);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    free(s->path);
    s->path = NULL;
    s->listen_fd = -1;
}
