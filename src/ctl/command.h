/*
 * siroccoctl's commands: one row each in main.c's table, one file a family.
 * Commands for scripts read one JSON value a line and answer one a line.
 */
#ifndef CTL_COMMAND_H
#define CTL_COMMAND_H

#include <stdbool.h>

#include <json-c/json.h>

#include "base/buf.h"
#include "base/err.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct command {
    const char *name;
    const char *usage;     /* what follows the name */
    const char *about;     /* one line */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
};

/* Options of a command, all of the form --name VALUE or --name (flag). */
struct option_row {
    const char *name;      /* without -- */
    const char **value;    /* takes a value; NULL for a flag */
    bool *flag;
};

/* Parses argv into rows (ended by a NULL name). Complains on standard error
 * and returns EXIT_USAGE for anything else, also for a plain word. */
int command_options(int argc, char **argv, const struct option_row *rows);

/* Prints "siroccoctl NAME: text" on standard error; returns EXIT_FAILED. */
int command_fail(const char *name, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Parses text as a whole number between min and max into *out; complains and
 * returns EXIT_USAGE otherwise. A NULL text leaves *out alone. */
int command_number(const char *option, const char *text, long long min,
                   long long max, long long *out);

/* Called for every line of standard input. in is NULL for `null`. Appends the
 * answer without a newline. A failure's text becomes {"error": text}, or what
 * was appended is the answer when e holds no text; the loop goes on. */
typedef int (*line_fn)(void *arg, struct json_object *in, struct buf *out,
                       struct err *e);

/* Runs fn over standard input to its end. Returns EXIT_OK, or EXIT_FAILED when
 * any line failed. */
int command_lines(const char *name, line_fn fn, void *arg);

/* Array of token ids of o (each 0..INT32_MAX) appended to out. ERR_FORMAT with
 * the index of what is no id. */
int command_ids(struct json_object *o, struct ids *out, struct err *e);
/* Appends "[1, 2, 3]" to out. */
int command_put_ids(struct buf *out, const int32_t *id, size_t n);

int score_command(int argc, char **argv);
int generate_command(int argc, char **argv);
int tokenize_command(int argc, char **argv);
int detokenize_command(int argc, char **argv);
int filter_command(int argc, char **argv);
int check_command(int argc, char **argv);
int pack_command(int argc, char **argv);
int diagnose_command(int argc, char **argv);
int bench_command(int argc, char **argv);

#endif
