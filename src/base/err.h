/*
 * Error codes of the whole program, and the error text that travels with one.
 *
 * Functions that can fail return 0 or a negative ERR_* code. The function that
 * decides that something is an error fills a struct err (when its caller gave
 * one); everybody above passes it up unchanged, adding at most a prefix.
 * Any thread; no global state.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

enum {
    ERR_AGAIN = -1,      /* not now; a normal answer, never logged */
    ERR_NOMEM = -2,      /* memory or a fixed-size pool is exhausted */
    ERR_IO = -3,         /* the system refused a file or socket operation */
    ERR_FORMAT = -4,     /* input does not have the form it must have */
    ERR_RANGE = -5,      /* a value is outside what is allowed */
    ERR_NOENT = -6,      /* something named does not exist */
    ERR_LIMIT = -7,      /* input is larger than a configured limit */
    ERR_UNSUPPORTED = -8,/* understood, but this build or model cannot do it */
    ERR_STATE = -9,      /* called at the wrong time */
    ERR_CLOSED = -10,    /* the peer or the queue is gone */
    ERR_DEVICE = -11,    /* an accelerator failed */
    ERR_MISMATCH = -12,  /* two things that must agree do not */
    ERR_ACCESS = -13     /* the system forbids the access */
};

#define ERR_TEXT_MAX 1024

/* Text for an operator or user; `text` is always NUL-terminated, cut when it
 * does not fit. Zero-initialise it. */
struct err {
    int code;
    char text[ERR_TEXT_MAX];
};

/* Short English name of a code, "success" for 0; never NULL. */
const char *err_str(int code);

/* Stores code and formatted text in e (e may be NULL); returns code, so that
 * a function can end with `return err_set(e, ERR_FORMAT, ...)`. */
int err_set(struct err *e, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts formatted text in front of what e holds; returns e's code (0 if e is
 * NULL). */
int err_prefix(struct err *e, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
