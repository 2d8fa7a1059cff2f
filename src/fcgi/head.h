/*
 * What is read from a connection: the head (the begin record and the
 * parameters) and the body (standard input). Acceptor threads.
 */
#ifndef FCGI_HEAD_H
#define FCGI_HEAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum fcgi_record {
    FCGI_REC_BEGIN = 1,
    FCGI_REC_ABORT = 2,
    FCGI_REC_END = 3,
    FCGI_REC_PARAMS = 4,
    FCGI_REC_STDIN = 5,
    FCGI_REC_STDOUT = 6
};
#define FCGI_REC_HEAD 8 /* bytes in front of a record's content */

/* Checks the head that data[0..n) starts with: record order, one request id,
 * the responder role, name and value lengths that add up. Returns its length;
 * 0 when more bytes are needed; ERR_FORMAT; or ERR_LIMIT when the parameters
 * are longer than max_params or cut into absurdly many records. scratch is
 * overwritten. *id is set as soon as the begin record is there. */
long head_check(const unsigned char *data, size_t n, size_t max_params,
                struct buf *scratch, uint16_t *id);

/* A connection being read, with what was read ahead. */
struct input {
    int fd;
    struct buf ahead;
    size_t at;           /* first byte of ahead not yet used */
    uint64_t deadline;   /* clock_ns */
};

/* Reads until the head is complete and leaves it in in->ahead, *len bytes
 * long. Returns 0 or an error of head_check, or ERR_CLOSED when the peer went
 * away or was too slow. */
int input_head(struct input *in, size_t max_params, struct buf *scratch,
               uint16_t *id, size_t *len);

/* Reads standard input of request id to its end; the first n bytes go to
 * body. Returns 0 when it is exactly n bytes long, ERR_LIMIT when longer,
 * ERR_CLOSED or ERR_FORMAT. body may be NULL when n is 0: all is discarded. */
int input_body(struct input *in, uint16_t id, char *body, size_t n);

#endif
