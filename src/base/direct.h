/*
 * Reading large files once: past the page cache where the file system takes
 * that (O_DIRECT), else through it, and what was read is dropped from it. So
 * loading weights neither doubles them in memory nor pushes out what others
 * keep there. One struct may be read by many threads at a time.
 */
#ifndef BASE_DIRECT_H
#define BASE_DIRECT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define DIRECT_ALIGN 4096
/* Room that a buffer needs beside the bytes read: a read begins and ends at
 * multiples of DIRECT_ALIGN. */
#define DIRECT_SLACK (2 * DIRECT_ALIGN)

struct direct {
    int fd;             /* through the page cache */
    atomic_int past;    /* a descriptor with O_DIRECT, or -1 */
    int past_fd;        /* the same, to be closed */
    char *path;
};

/* Opens path for reading. Returns 0 or ERR_IO. */
int direct_open(struct direct *d, const char *path, struct err *e);
/* A zeroed struct is fine too. */
void direct_close(struct direct *d);

/* Reads n bytes at `from`. buf is aligned to DIRECT_ALIGN and has room for n +
 * DIRECT_SLACK bytes; *at becomes the place in buf where the n bytes begin.
 * Returns 0, or ERR_IO with the path in e, also when the file ends before. */
int direct_read(struct direct *d, uint64_t from, void *buf, size_t n,
                char **at, struct err *e);

#endif
