#include "config.h"

#include "ctl/session.h"

#include <string.h>

#include "ctl/command.h"

#define CONTEXT_DEFAULT 32768
#define STEP_DEFAULT 512
#define DRAFTS_DEFAULT 3

static uint32_t
blocks_for(const struct session_options *o)
{
    uint32_t a_seq = (o->max_context + KV_BLOCK - 1) / KV_BLOCK + 1;
    return a_seq * o->max_seqs;
}

/* Plans twice: the first plan tells what a block costs. */
static int
plan(const struct session_options *o, struct session *s, struct err *e)
{
    struct backend_limits l = {
        .max_seqs = o->max_seqs, .max_step = o->max_step,
        .max_context = o->max_context, .kv_bytes = o->kv_bytes,
        .threads = o->threads, .n_devices = 1, .n_vocab = o->n_vocab,
        .draft = s->draft, .n_drafts = o->n_drafts, .packed = o->packed,
    };
    const struct backend_ops *ops = s->backend->ops;

    if (l.kv_bytes == 0) {
        l.kv_bytes = 1;
        int rc = ops->plan(s->backend, s->model, &l, &s->plan, e);
        if (rc != 0)
            return rc;
        l.kv_bytes = s->plan.bytes_per_block * blocks_for(o);
    }
    int rc = ops->plan(s->backend, s->model, &l, &s->plan, e);
    if (rc == 0 && !s->plan.fits)
        rc = err_set(e, ERR_LIMIT, "the model needs %.2f GiB, %.2f are free",
                     (double)s->plan.total / (1 << 30),
                     (double)s->plan.available / (1 << 30));
    return rc;
}

int
session_arguments(int argc, char **argv, struct session_options *o)
{
    const char *context = NULL, *threads = NULL, *step = NULL;
    const char *drafts = NULL, *layers = NULL;
    long long n_layers = 0;
    long long n_drafts = DRAFTS_DEFAULT;
    long long n_context = CONTEXT_DEFAULT, n_step = STEP_DEFAULT;
    long long n_threads = 0;

    *o = (struct session_options){.max_seqs = 1};
    const struct option_row rows[] = {
        {"model", &o->model, NULL}, {"backend", &o->backend, NULL},
        {"max-context", &context, NULL}, {"step", &step, NULL},
        {"threads", &threads, NULL}, {"dummy", NULL, &o->dummy},
        {"packed", &o->packed, NULL}, {"layers", &layers, NULL},
        {"draft", &o->draft, NULL}, {"drafts", &drafts, NULL}, {NULL}
    };
    int rc = command_options(argc, argv, rows);
    if (rc == EXIT_OK)
        rc = command_number("max-context", context, 1, 1 << 20, &n_context);
    if (rc == EXIT_OK)
        rc = command_number("step", step, 1, 65536, &n_step);
    if (rc == EXIT_OK)
        rc = command_number("threads", threads, 0, 1024, &n_threads);
    if (rc == EXIT_OK)
        rc = command_number("drafts", drafts, 1, BACKEND_OUT_MAX - 1,
                            &n_drafts);
    if (rc == EXIT_OK)
        rc = command_number("layers", layers, 1, 1000, &n_layers);
    if (rc == EXIT_OK && o->model == NULL) {
        command_fail(argv[0], "--model DIR is needed");
        rc = EXIT_USAGE;
    }
    o->max_context = (uint32_t)n_context;
    o->max_step = (uint32_t)n_step;
    o->threads = (int)n_threads;
    o->n_layers = (int)n_layers;
    o->n_drafts = o->draft ? (uint32_t)n_drafts : 0;
    return rc;
}

int
session_open(const struct session_options *o, struct session *s,
             struct err *e)
{
    const char *name = o->backend ? o->backend : "cpu", *spec;
    const struct backend_ops *ops = backend_find(backend_table, name, &spec);
    struct model_options mo = {.dummy = o->dummy, .seed = 1,
                               .n_layers = o->n_layers};
    struct model_options head = {.draft = true};

    memset(s, 0, sizeof *s);
    if (ops == NULL)
        return err_set(e, ERR_NOENT, "this build has no back end '%s'", name);
    if (o->packed && ops->pack == NULL)
        return err_set(e, ERR_UNSUPPORTED, "the back end '%s' does not load "
                       "packed weights", ops->name);
    if (o->model == NULL && ops->needs_model)
        return err_set(e, ERR_NOENT, "--model DIR is needed");
    int rc = 0;
    if (o->model)
        rc = model_open(o->model, &mo, &s->model, e);
    if (rc == 0 && o->draft)
        rc = model_open(o->draft, &head, &s->draft, e);
    if (rc == 0)
        rc = ops->open(spec, &s->backend, e);
    if (rc == 0)
        rc = plan(o, s, e);
    if (rc == 0)
        rc = ops->load(s->backend, NULL, NULL, e);
    if (rc != 0)
        session_close(s);
    return rc;
}

void
session_close(struct session *s)
{
    if (s->backend)
        s->backend->ops->close(s->backend);
    if (s->model)
        model_close(s->model);
    if (s->draft)
        model_close(s->draft);
    memset(s, 0, sizeof *s);
}
