#include "config.h"

#include "base/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
direct_open(struct direct *d, const char *path, struct err *e)
{
    memset(d, 0, sizeof *d);
    d->fd = open(path, O_RDONLY | O_CLOEXEC);
    d->past_fd = -1;
    d->path = strdup(path);
    if (d->fd < 0 || d->path == NULL) {
        int r = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        direct_close(d);
        return r;
    }
    /* Nothing is read ahead: it would be dropped in parts, or stay. */
    posix_fadvise(d->fd, 0, 0, POSIX_FADV_RANDOM);
    /* Where this is refused (tmpfs), the other descriptor serves. */
    d->past_fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    atomic_store(&d->past, d->past_fd);
    return 0;
}

void
direct_close(struct direct *d)
{
    if (d->path == NULL && d->fd <= 0)
        return;
    if (d->fd >= 0)
        close(d->fd);
    if (d->past_fd >= 0)
        close(d->past_fd);
    free(d->path);
    memset(d, 0, sizeof *d);
}

/* Reads up to n bytes from an aligned place; *got falls short at the end of
 * the file only. Returns 0 or an errno. */
static int
read_some(int fd, char *buf, size_t n, uint64_t from, size_t *got)
{
    for (*got = 0; *got < n;) {
        ssize_t k = pread(fd, buf + *got, n - *got, (off_t)(from + *got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return errno;
        *got += (size_t)k;
        /* What ends inside a block has reached the end of the file; the next
         * read would not be aligned. */
        if (k == 0 || *got % DIRECT_ALIGN != 0)
            return 0;
    }
    return 0;
}

int
direct_read(struct direct *d, uint64_t from, void *buf, size_t n, char **at,
            struct err *e)
{
    uint64_t begin = from / DIRECT_ALIGN * DIRECT_ALIGN;
    size_t skip = (size_t)(from - begin), got = 0;
    size_t whole = (skip + n + DIRECT_ALIGN - 1) / DIRECT_ALIGN
                   * DIRECT_ALIGN;
    int past = atomic_load(&d->past), bad = past < 0 ? EINVAL : 0;

    if (past >= 0)
        bad = read_some(past, buf, whole, begin, &got);
    /* Opened, yet not readable so: the file system or the device wants larger
     * blocks, or the buffer's memory is not for it. */
    if (bad == EINVAL || bad == EFAULT || bad == EOPNOTSUPP) {
        atomic_store(&d->past, -1);
        bad = read_some(d->fd, buf, whole, begin, &got);
        posix_fadvise(d->fd, (off_t)begin, (off_t)whole,
                      POSIX_FADV_DONTNEED);
    }
    if (bad != 0)
        return err_set(e, ERR_IO, "%s: cannot be read: %s", d->path,
                       strerror(bad));
    if (got < skip + n)
        return err_set(e, ERR_IO, "%s: is truncated: it ends at byte %" PRIu64
                       ", %" PRIu64 " were expected; has it been changed "
                       "since it was opened?", d->path, begin + got,
                       from + n);
    *at = (char *)buf + skip;
    return 0;
}
