#include "config.h"

#include "ctl/bench.h"

#include "base/err.h"
#include "ctl/command.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
bench_command(int argc, char **argv)
{
    int (*run)(int, char **) = NULL;
    if (argc >= 2 && strcmp(argv[1], "serve") == 0)
        run = bench_serve;
    if (argc >= 2 && strcmp(argv[1], "engine") == 0)
        run = bench_engine;
    if (run != NULL) {
        argv[1] = argv[0];    /* the command, as `help` knows it */
        return run(argc - 1, argv + 1);
    }
    command_fail(argv[0], "say what: serve or engine; see siroccoctl help "
                 "bench");
    return EXIT_USAGE;
}

int
samples_add(struct samples *s, double x)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 1024;
        double *more = realloc(s->x, cap * sizeof *more);
        if (more == NULL)
            return ERR_NOMEM;
        s->x = more;
        s->cap = cap;
    }
    s->x[s->n++] = x;
    return 0;
}

void
samples_free(struct samples *s)
{
    free(s->x);
    *s = (struct samples){0};
}

static int
by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double
samples_percentile(struct samples *s, double p)
{
    if (s->n == 0)
        return 0;
    qsort(s->x, s->n, sizeof *s->x, by_value);
    double at = p / 100 * (double)(s->n - 1);
    size_t i = (size_t)at;
    if (i + 1 >= s->n)
        return s->x[s->n - 1];
    return s->x[i] + (at - (double)i) * (s->x[i + 1] - s->x[i]);
}

struct samples_range
samples_range(struct samples *s)
{
    struct samples_range r = {samples_percentile(s, 50),
                              samples_percentile(s, 0),
                              samples_percentile(s, 100), 0};
    if (r.mid > 0)
        r.spread = (r.high - r.low) / r.mid;
    return r;
}

/* First number of a thread's schedstat: nanoseconds on a CPU. */
static uint64_t
thread_ns(int pid, const char *tid)
{
    char path[128];
    unsigned long long ns = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", pid, tid);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%llu", &ns) != 1)
        ns = 0;
    fclose(f);
    return ns;
}

int
process_use(int pid, struct process_use *out)
{
    char path[64], line[256];
    unsigned long long kb;
    *out = (struct process_use){0};
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *d = opendir(path);
    if (d == NULL)
        return ERR_NOENT;
    for (struct dirent *t; (t = readdir(d)) != NULL;)
        if (t->d_name[0] != '.')
            out->cpu_ns += thread_ns(pid, t->d_name);
    closedir(d);
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return ERR_NOENT;
    while (fgets(line, sizeof line, f) != NULL) {
        if (sscanf(line, "VmRSS: %llu", &kb) == 1)
            out->rss = kb * 1024;
        if (sscanf(line, "VmHWM: %llu", &kb) == 1)
            out->peak = kb * 1024;
    }
    fclose(f);
    return 0;
}
