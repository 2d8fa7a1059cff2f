/*
 * Scripts of the null back end: token ids that it gives as the model's output.
 * A file has one JSON value a line:
 *
 *   [ids]                            for requests whose seed is the line's
 *                                    number, counted from 0
 *   {"find": [ids], "ids": [ids]}    for requests whose prompt has the ids of
 *                                    find in it, next to each other; the first
 *                                    such line wins, and over the seed
 */
#ifndef BACKEND_SCRIPT_H
#define BACKEND_SCRIPT_H

#include "base/buf.h"
#include "base/err.h"

struct script {
    struct ids find;   /* n == 0: by seed */
    struct ids out;
};

struct script_file {
    struct script *line;
    size_t n;
};

/* Reads a file. Errors name the line: ERR_NOENT, ERR_IO, ERR_FORMAT, ... */
int script_load(const char *path, struct script_file *out, struct err *e);
void script_free(struct script_file *f);

/* Largest id in the file, -1 when there is none. */
int32_t script_max_id(const struct script_file *f);

/* The script for a request, NULL when none is meant. */
const struct script *script_pick(const struct script_file *f, uint64_t seed,
                                 const int32_t *prompt, size_t n_prompt);

#endif
