/*
 * siroccoctl pack: the weights of a checkpoint in the form that a device holds
 * them, as one file, so that a start only copies. No device is needed.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "ctl/command.h"

struct progress {
    uint64_t started, last;
};

static void
show_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;
    uint64_t now = clock_ns();
    double s = (double)(now - p->started) * 1e-9;

    if (now - p->last < 2000000000u || done == 0)
        return;
    p->last = now;
    fprintf(stderr, "%.1f of %.1f GB, %.2f GB/s, %.0f s left\n",
            (double)done * 1e-9, (double)total * 1e-9,
            (double)done * 1e-9 / s,
            s / (double)done * (double)(total - done));
}

static const struct backend_ops *
packing_backend(void)
{
    for (const struct backend_ops *const *b = backend_table; *b; b++)
        if ((*b)->pack)
            return *b;
    return NULL;
}

int
pack_command(int argc, char **argv)
{
    const char *dir = NULL, *out = NULL;
    struct model_options mo = {.seed = 1};
    const struct option_row rows[] = {
        {"model", &dir, NULL}, {"out", &out, NULL},
        {"dummy", NULL, &mo.dummy}, {NULL}
    };
    struct progress p = {clock_ns(), clock_ns()};
    struct model *m = NULL;
    struct err e = {0};

    int rc = command_options(argc, argv, rows);
    if (rc != EXIT_OK)
        return rc;
    if (dir == NULL || out == NULL) {
        command_fail(argv[0], "--model DIR and --out FILE are needed");
        return EXIT_USAGE;
    }
    const struct backend_ops *ops = packing_backend();
    if (ops == NULL)
        return command_fail(argv[0], "no back end of this build has a packed "
                            "form; it was configured without CUDA");
    rc = model_open(dir, &mo, &m, &e);
    if (rc == 0)
        rc = ops->pack(m, out, show_progress, &p, &e);
    if (m)
        model_close(m);
    return rc ? command_fail(argv[0], "%s", e.text) : EXIT_OK;
}
