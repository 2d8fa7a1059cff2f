/*
 * siroccoctl filter: the ids of a model's output to what the API would send,
 * cut into pieces wherever the caller says.
 */
#include "config.h"

#include <stdlib.h>

#include "api/replay.h"
#include "ctl/command.h"
#include "json/json.h"

struct filter_command {
    struct tok *tok;
    struct filter_set *filters;
};

static int
token_id(void *arg, const char *name)
{
    return tok_special(arg, name);
}

/* The optional array "cuts" as sizes; *out is the caller's to free. */
static int
read_cuts(struct json_object *in, size_t **out, size_t *n, struct err *e)
{
    struct ids cuts = {0};
    struct json_object *o = json_get(in, "cuts");

    *n = 0;
    int rc = o ? command_ids(o, &cuts, e) : 0;
    if (rc != 0)
        err_prefix(e, "cuts: ");
    *out = rc == 0 ? calloc(cuts.n + 1, sizeof **out) : NULL;
    if (rc == 0 && *out == NULL)
        rc = err_set(e, ERR_NOMEM, "out of memory");
    for (size_t i = 0; rc == 0 && i < cuts.n; i++)
        (*out)[(*n)++] = (size_t)cuts.id[i];
    ids_free(&cuts);
    return rc;
}

static int
filter_line(void *arg, struct json_object *in, struct buf *out,
            struct err *e)
{
    const struct filter_command *f = arg;
    struct replay r = {.tok = f->tok, .filters = f->filters};
    struct ids ids = {0};
    size_t *cut = NULL;

    if (!json_object_is_type(in, json_type_object))
        return err_set(e, ERR_FORMAT, "expected an object with \"ids\"");
    int rc = command_ids(json_get(in, "ids"), &ids, e);
    if (rc == 0)
        rc = read_cuts(in, &cut, &r.n_cut, e);
    if (rc == 0) {
        r.id = ids.id;
        r.n = ids.n;
        r.cut = cut;
        rc = replay_put(&r, out, e);
    }
    free(cut);
    ids_free(&ids);
    return rc;
}

int
filter_command(int argc, char **argv)
{
    const char *file = NULL, *patterns = NULL;
    const struct option_row rows[] = {
        {"tokenizer", &file, NULL}, {"patterns", &patterns, NULL}, {NULL}
    };
    struct filter_command f = {0};
    struct err e = {0};

    int rc = command_options(argc, argv, rows);
    if (rc == EXIT_OK && file == NULL) {
        command_fail(argv[0], "--tokenizer FILE is needed");
        rc = EXIT_USAGE;
    }
    if (rc != EXIT_OK)
        return rc;
    if (tok_load(file, &f.tok, &e) != 0)
        return command_fail(argv[0], "%s", e.text);
    if (filter_set_create(tok_info(f.tok)->version, token_id, f.tok,
                          patterns, &f.filters, &e) != 0)
        rc = command_fail(argv[0], "%s", e.text);
    else
        rc = command_lines(argv[0], filter_line, &f);
    if (f.filters)
        filter_set_free(f.filters);
    tok_free(f.tok);
    return rc;
}
