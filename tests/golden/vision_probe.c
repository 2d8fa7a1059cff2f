/*
 * The CPU back end on a prompt with one image, for test_visions.py.
 * Arguments: model directory, file of pixels (floats, [3, height, width]),
 * height, width, tokens a step, ids of the prompt. The image starts at the
 * first id that is 10. Answers one JSON line: the log-probability of each next
 * id, and the image's vectors.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "cpu/cpu.h"
#include "cpu/tower.h"

#define IMG 10
#define IDS_MAX 512

struct probe {
    struct backend *b;
    struct model *m;
    int32_t id[IDS_MAX + 1];
    uint32_t n;
    uint64_t image;
};

static int
fail(const struct err *e)
{
    fprintf(stderr, "%s\n", e->text);
    return 1;
}

/* The image tokens of [from, from + n); false when there are none. */
static bool
find_image(const struct probe *p, uint32_t from, uint32_t n,
           struct batch_image *im)
{
    *im = (struct batch_image){.handle = p->image};
    for (uint32_t i = 0; i < from + n; i++) {
        if (p->id[i] != IMG)
            continue;
        if (i < from)
            im->row++;
        else if (im->n++ == 0)
            im->token = i - from;
    }
    return im->n > 0;
}

static int
run_step(struct probe *p, uint32_t from, uint32_t n, struct buf *out,
         struct err *e)
{
    static const struct sampling greedy = {.top_p = 1,
                                           .repetition_penalty = 1};
    uint32_t block[IDS_MAX / KV_BLOCK + 1];
    for (uint32_t i = 0; i <= IDS_MAX / KV_BLOCK; i++)
        block[i] = i;
    struct batch_seq q = {
        .n_tok = n, .n_past = from, .block = block,
        .n_block = (from + n + KV_BLOCK - 1) / KV_BLOCK, .max_out = 1,
        .reset = from == 0, .sampling = &greedy, .history = p->id,
        .n_history = p->n, .n_prompt = p->n, .n_top = -1,
        .target = p->id + from + 1};
    struct batch_image im;
    struct batch batch = {.n_tok = n, .n_seq = 1, .token = p->id + from,
                          .seq = &q, .image = &im, .step = from};
    struct step_result r;

    batch.n_image = find_image(p, from, n, &im);
    int rc = p->b->ops->submit(p->b, &batch, e);
    if (rc == 0)
        rc = p->b->ops->collect(p->b, &r, e);
    for (uint32_t i = 0; rc == 0 && i < n && from + i + 1 < p->n; i++)
        buf_printf(out, "%s%.6f", from + i ? "," : "",
                   (double)r.seq[0].target[i].logprob);
    return rc;
}

static int
open_model(struct probe *p, const char *dir, struct err *e)
{
    const struct model_options options = {0};
    const struct backend_limits limits = {
        .max_seqs = 1, .max_step = IDS_MAX, .max_context = IDS_MAX,
        .kv_bytes = 64 << 20, .threads = 2};
    struct backend_plan plan;

    int rc = model_open(dir, &options, &p->m, e);
    if (rc == 0)
        rc = backend_cpu.open(NULL, &p->b, e);
    if (rc == 0)
        rc = backend_cpu.plan(p->b, p->m, &limits, &plan, e);
    return rc ? rc : backend_cpu.load(p->b, NULL, NULL, e);
}

int
main(int argc, char **argv)
{
    struct probe p = {0};
    struct buf pixels = {0}, out = {0};
    struct err e = {0};

    if (argc < 7 || argc - 6 > IDS_MAX)
        return 2;
    for (int i = 6; i < argc; i++)
        p.id[p.n++] = atoi(argv[i]);
    p.id[p.n] = -1;
    uint32_t step = (uint32_t)atoi(argv[5]);
    if (buf_read_file(&pixels, argv[2], 1 << 24) != 0
        || open_model(&p, argv[1], &e) != 0
        || p.b->ops->encode_image(p.b, (const float *)(void *)pixels.data,
                                  atoi(argv[3]), atoi(argv[4]), &p.image,
                                  &e) != 0)
        return fail(&e);
    buf_puts(&out, "{\"next_logprob\": [");
    for (uint32_t at = 0; at < p.n; at += step)
        if (run_step(&p, at, p.n - at < step ? p.n - at : step, &out,
                     &e) != 0)
            return fail(&e);
    buf_puts(&out, "], \"vectors\": [");
    const struct tower_image *im = (void *)(uintptr_t)p.image;
    for (size_t i = 0; i < (size_t)im->n * (size_t)im->dim; i++)
        buf_printf(&out, "%s%.6f", i ? "," : "", (double)im->vector[i]);
    printf("%s]}\n", buf_cstr(&out));
    p.b->ops->free_image(p.b, p.image);
    p.b->ops->close(p.b);
    model_close(p.m);
    buf_free(&pixels);
    buf_free(&out);
    return 0;
}
