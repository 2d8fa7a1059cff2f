#include "config.h"

#include "cpu/forward.h"

/*
 * Products of a step. All matrices that share a point in the pass (the two
 * latent projections; all experts) go into one parallel loop, cut by rows into
 * tasks of about equal work. The cut changes nothing in the results: a row's
 * sum is made in one place.
 */

#define TASK_WORK 131072    /* multiply-adds below which a task costs more
                               than it saves */
#define TASKS_A_THREAD 4

struct run {
    struct work *w;
    const struct job *job;
    int n_jobs;
};

static int64_t
job_work(const struct job *j)
{
    return (j->pair ? 2 : 1) * j->w->rows * j->w->cols * j->n;
}

static void
run_task(void *arg, int task, int worker)
{
    const struct run *r = arg;
    const struct kernels *k = r->w->net->k;
    float *panel = r->w->scratch + (size_t)worker * r->w->scratch_size;
    int low = 0, high = r->n_jobs;
    while (high - low > 1) {
        int mid = (low + high) / 2;
        if (r->job[mid].first_task <= task)
            low = mid;
        else
            high = mid;
    }
    const struct job *j = &r->job[low];
    int64_t first = (int64_t)(task - j->first_task) * j->chunk;
    int64_t n = j->w->rows - first < j->chunk ? j->w->rows - first : j->chunk;
    enum { VECTORS = 64 };
    float *y[VECTORS], *y2[VECTORS];
    for (int t = 0; t < j->n; t += VECTORS) {
        int m = j->n - t < VECTORS ? j->n - t : VECTORS;
        for (int i = 0; i < m; i++)
            y[i] = j->y[t + i] + first;
        k->dot(j->w, first, n, j->x + t, m, y, panel);
        if (j->pair == NULL)
            continue;
        for (int i = 0; i < m; i++)
            y2[i] = j->y2[t + i] + first;
        k->dot(j->pair, first, n, j->x + t, m, y2, panel);
        for (int i = 0; i < m; i++)
            k->silu_mul(y[i], y2[i], (int)n);
    }
}

void
matmul_run(struct work *w, struct job *job, int n_jobs)
{
    int64_t total = 0;
    int n_tasks = 0;
    for (int i = 0; i < n_jobs; i++)
        total += job_work(&job[i]);
    int64_t share = total / (pool_size(w->net->pool) * TASKS_A_THREAD) + 1;
    if (share < TASK_WORK)
        share = TASK_WORK;
    for (int i = 0; i < n_jobs; i++) {
        struct job *j = &job[i];
        int64_t rows = j->w->rows, a_row = job_work(j) / rows + 1;
        int64_t chunk = (share / a_row + 8) / 8 * 8;
        j->chunk = (int)(chunk < rows ? chunk : rows);
        j->first_task = n_tasks;
        n_tasks += (int)((rows + j->chunk - 1) / j->chunk);
    }
    struct run r = {w, job, n_jobs};
    if (total >= 2 * TASK_WORK) {
        pool_run(w->net->pool, n_tasks, run_task, &r);
        return;
    }
    for (int i = 0; i < n_tasks; i++)
        run_task(&r, i, 0);
}

void
rows_in(const float **p, const float *base, size_t stride, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = base + (size_t)i * stride;
}

void
rows_out(float **p, float *base, size_t stride, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = base + (size_t)i * stride;
}
