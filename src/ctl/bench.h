/* What the parts of siroccoctl bench share: samples, and a process watched. */
#ifndef CTL_BENCH_H
#define CTL_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* A growing set of measurements. */
struct samples {
    double *x;
    size_t n, cap;
};

int samples_add(struct samples *s, double x); /* 0 or ERR_NOMEM */
void samples_free(struct samples *s);
/* The p-th percentile (0..100) by linear interpolation; 0 when empty. Sorts
 * the set. */
double samples_percentile(struct samples *s, double p);

/* The median, and what lies around it: spread is (high - low) / mid. */
struct samples_range {
    double mid, low, high, spread;
};
struct samples_range samples_range(struct samples *s); /* sorts the set */

#define BENCH_VOCAB 131072   /* of made prompts where no model says */

/* CPU time and memory of another process. */
struct process_use {
    uint64_t cpu_ns;        /* all threads, user and system */
    uint64_t rss, peak;     /* bytes */
};
/* Returns 0, or ERR_NOENT when there is no such process. */
int process_use(int pid, struct process_use *out);

int bench_serve(int argc, char **argv);
int bench_engine(int argc, char **argv);

#endif
