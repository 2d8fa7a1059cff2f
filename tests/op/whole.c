#include "config.h"

#include "tests/op/whole.h"

#include "cpu/cpu.h"
#include "cuda/cuda_backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};

/* --- both back ends ---------------------------------------------------------- */

static int
open_one(struct whole *w, const struct backend_ops *ops, struct backend **b,
         struct err *e)
{
    struct backend_limits l = {
        .max_seqs = w->l.max_seqs, .max_step = w->l.max_step,
        .max_context = w->l.max_context, .n_devices = 1, .kv_bytes = 1 << 20,
    };
    struct backend_plan p;
    int r = ops->open(NULL, b, e);
    if (r == 0)
        r = ops->plan(*b, w->model, &l, &p, e);
    l.kv_bytes = p.bytes_per_block * w->l.n_blocks;
    if (r == 0)
        r = ops->plan(*b, w->model, &l, &p, e);
    if (r == 0 && (!p.fits || p.n_blocks != w->l.n_blocks))
        r = err_set(e, ERR_LIMIT, "%s: %u of %u blocks fit, %.1f GiB needed",
                    ops->name, p.n_blocks, w->l.n_blocks,
                    (double)p.total / (1 << 30));
    return r == 0 ? ops->load(*b, NULL, NULL, e) : r;
}

int
whole_open(struct whole *w, const char *dir, bool dummy,
           const struct whole_limits *l, struct err *e)
{
    struct model_options o = {.dummy = dummy, .seed = 7};
    *w = (struct whole){.l = *l};
    int r = model_open(dir, &o, &w->model, e);
    if (r == 0)
        r = open_one(w, &backend_cpu, &w->cpu, e);
    if (r == 0)
        r = open_one(w, &backend_cuda, &w->cuda, e);
    if (r == 0)
        w->n_vocab = (uint32_t)model_params(w->model)->text.vocab;
    return r;
}

void
whole_close(struct whole *w)
{
    if (w->cpu)
        w->cpu->ops->close(w->cpu);
    if (w->cuda)
        w->cuda->ops->close(w->cuda);
    model_close(w->model);
}

/* --- texts ------------------------------------------------------------------- */

int
text_random(struct text *t, uint32_t n, uint32_t n_vocab, uint64_t seed)
{
    *t = (struct text){.n = n};
    t->id = calloc(n + 1, sizeof *t->id);
    t->next = calloc(n, sizeof *t->next);
    t->best = calloc(n, sizeof *t->best);
    if (t->id == NULL || t->next == NULL || t->best == NULL)
        return ERR_NOMEM;
    uint64_t x = seed * 0x9E3779B97F4A7C15u + 1;
    for (uint32_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        t->id[i] = (int32_t)(20 + (x >> 33) % (n_vocab - 20));
    }
    t->id[n] = -1;
    return 0;
}

void
text_free(struct text *t)
{
    for (uint32_t i = 0; i < t->n_image; i++)
        free(t->image[i].pixels);
    free(t->image);
    free(t->id);
    free(t->next);
    free(t->best);
    *t = (struct text){0};
}

/* The batch's images for tokens [from, from + n) of t, which stand at `first`
 * in the batch. Encodes what has no handle yet. */
static int
put_images(struct backend *b, const struct text *t, uint64_t *handle,
           uint32_t from, uint32_t n, uint32_t first,
           struct batch_image *out, uint32_t *n_out, struct err *e)
{
    for (uint32_t i = 0; i < t->n_image; i++) {
        const struct picture *p = &t->image[i];
        struct batch_image im = {0};
        for (uint32_t k = p->pos; k < p->pos + p->n_tokens; k++) {
            if (t->id[k] != WHOLE_IMG || k >= from + n)
                continue;
            if (k < from)
                im.row++;
            else if (im.n++ == 0)
                im.token = first + k - from;
        }
        if (im.n == 0)
            continue;
        if (handle[i] == 0) {
            int r = b->ops->encode_image(b, p->pixels, p->height, p->width,
                                         &handle[i], e);
            if (r != 0)
                return r;
        }
        im.handle = handle[i];
        out[(*n_out)++] = im;
    }
    return 0;
}

static void
free_images(struct backend *b, const struct text *t, uint64_t *handle)
{
    for (uint32_t i = 0; i < t->n_image; i++) {
        if (handle[i] != 0)
            b->ops->free_image(b, handle[i]);
        handle[i] = 0;
    }
}

static int
score_step(struct whole *w, struct text *t, uint64_t *handle,
           const uint32_t *block, uint32_t from, uint32_t n, struct err *e)
{
    struct batch_image *im = calloc(t->n_image + 1, sizeof *im);
    struct batch_seq q = {
        .n_tok = n, .n_past = from, .block = block,
        .n_block = w->l.max_context / KV_BLOCK, .max_out = 1,
        .reset = from == 0, .sampling = &greedy, .history = t->id,
        .n_history = t->n, .n_prompt = t->n, .n_top = -1,
        .target = t->id + from + 1, .target_top = 1};
    struct batch b = {.n_tok = n, .n_seq = 1, .token = t->id + from,
                      .seq = &q, .image = im, .step = from};
    struct step_result out;
    int r = im == NULL ? ERR_NOMEM
        : put_images(w->cpu, t, handle, from, n, 0, im, &b.n_image, e);
    if (r == 0)
        r = w->cpu->ops->submit(w->cpu, &b, e);
    if (r == 0)
        r = w->cpu->ops->collect(w->cpu, &out, e);
    for (uint32_t i = 0; r == 0 && i < n && from + i + 1 < t->n; i++) {
        t->next[from + i] = out.seq[0].target[i].logprob;
        t->best[from + i] = out.seq[0].target_top[i].logprob;
    }
    free(im);
    return r;
}

int
whole_score(struct whole *w, struct text *t, struct err *e)
{
    uint32_t most = w->l.max_context / KV_BLOCK;
    uint32_t *block = calloc(most, sizeof *block);
    uint64_t *handle = calloc(t->n_image + 1, sizeof *handle);
    int r = block && handle ? 0 : err_set(e, ERR_NOMEM, "no memory");
    for (uint32_t i = 0; r == 0 && i < most; i++)
        block[i] = i;
    for (uint32_t at = 0; r == 0 && at < t->n; at += w->l.max_step)
        r = score_step(w, t, handle, block, at,
                       t->n - at < w->l.max_step ? t->n - at
                                                 : w->l.max_step, e);
    if (handle != NULL)
        free_images(w->cpu, t, handle);
    free(block);
    free(handle);
    return r;
}

/* --- differences --------------------------------------------------------------- */

const struct diff_bound bound_fixed = {.008, .024, .08};
const struct diff_bound bound_choice = {.015, .08, 3};

void
diff_add(struct diff *d, double got, double want, uint32_t text, uint32_t at)
{
    double x = isfinite(got) ? fabs(got - want) : INFINITY;
    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 1024;
        d->x = realloc(d->x, d->cap * sizeof *d->x);
        if (d->x == NULL)
            abort();
    }
    d->x[d->n++] = (float)x;
    d->sum += want;
    d->sum2 += want * want;
    if (x > d->worst) {
        d->worst = x;
        d->text = text;
        d->at = at;
    }
}

static int
by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

int
diff_judge(struct diff *d, const struct diff_bound *b, const char *what,
           const char *how)
{
    double n = (double)d->n, mean = d->sum / n;
    double spread = sqrt(d->sum2 / n - mean * mean);
    double half = INFINITY, most = INFINITY;
    if (d->n > 0) {
        qsort(d->x, d->n, sizeof *d->x, by_value);
        half = (double)d->x[d->n / 2];
        most = (double)d->x[d->n - 1 - d->n / 20];
    }
    bool ok = half <= b->half * spread && most <= b->most * spread
              && d->worst <= b->worst * spread;
    printf("%s %s, %s: %zu places, half within %.4f (%.2f %% of %.2f), 19 in "
           "20 within %.4f, worst %.3f (text %u at %u)\n",
           ok ? "ok  " : "FAIL", what, how, d->n, half, 100 * half / spread,
           spread, most, d->worst, d->text, d->at);
    fflush(stdout);
    return !ok;
}

void
diff_free(struct diff *d)
{
    free(d->x);
    *d = (struct diff){0};
}

/* --- steps on the CUDA back end -------------------------------------------------- */

static uint32_t
images_before(const struct run *r, uint32_t text)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < text; i++)
        n += r->text[i].n_image;
    return n;
}

int
run_open(struct run *r, struct whole *w, struct text *t, uint32_t n,
         struct diff *d)
{
    const uint32_t blocks = w->l.n_blocks;
    *r = (struct run){.w = w, .text = t, .n_text = n, .diff = d};
    r->done = calloc(n, sizeof *r->done);
    r->block = calloc(blocks, sizeof *r->block);
    r->handle = calloc(images_before(r, n) + 1, sizeof *r->handle);
    if (r->done == NULL || r->block == NULL || r->handle == NULL)
        return ERR_NOMEM;
    for (uint32_t i = 0; i < blocks; i++)
        r->block[i] = (uint32_t)((i * 7919ull + 5) % blocks);
    return 0;
}

void
run_close(struct run *r)
{
    for (uint32_t i = 0; r->handle != NULL && i < r->n_text; i++)
        free_images(r->w->cuda, &r->text[i],
                    r->handle + images_before(r, i));
    free(r->done);
    free(r->block);
    free(r->handle);
}

static struct batch_seq
share_seq(const struct run *r, uint32_t text, uint32_t n, uint32_t first)
{
    const struct text *t = &r->text[text];
    const uint32_t per = r->w->l.n_blocks / r->n_text;
    return (struct batch_seq){
        .slot = text, .first = first, .n_tok = n, .n_past = r->done[text],
        .block = r->block + text * per, .n_block = per, .max_out = 1,
        .reset = r->done[text] == 0, .sampling = &greedy, .history = t->id,
        .n_history = r->done[text] + n, .n_prompt = r->done[text] + n,
        .n_top = -1,
    };
}

/* What a step needs from the caller until it is collected. */
struct step {
    struct batch b;
    struct batch_seq *q;
    int32_t *tok;
    struct batch_image *im;
    struct sampling *force;
};

static int
step_open(struct step *s, uint32_t n_seq, uint32_t n_tok, uint32_t n_image)
{
    *s = (struct step){0};
    s->q = calloc(n_seq, sizeof *s->q);
    s->tok = calloc(n_tok, sizeof *s->tok);
    s->im = calloc(n_image + 1, sizeof *s->im);
    s->force = calloc(n_seq, sizeof *s->force);
    s->b = (struct batch){.token = s->tok, .seq = s->q, .image = s->im};
    return s->q && s->tok && s->im && s->force ? 0 : ERR_NOMEM;
}

static void
step_close(struct step *s)
{
    free(s->q);
    free(s->tok);
    free(s->im);
    free(s->force);
}

int
run_step(struct run *r, const struct share *s, uint32_t n, struct err *e)
{
    struct backend *b = r->w->cuda;
    struct step_result out;
    struct step st;
    uint32_t n_tok = 0;
    for (uint32_t i = 0; i < n; i++)
        n_tok += s[i].n;
    int rc = step_open(&st, n, n_tok, images_before(r, r->n_text));
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const struct text *t = &r->text[s[i].text];
        const uint32_t from = r->done[s[i].text], first = st.b.n_tok;
        st.q[i] = share_seq(r, s[i].text, s[i].n, first);
        st.q[i].target = t->id + from + 1;
        memcpy(st.tok + first, t->id + from, s[i].n * sizeof *st.tok);
        rc = put_images(b, t, r->handle + images_before(r, s[i].text), from,
                        s[i].n, first, st.im, &st.b.n_image, e);
        st.b.n_tok += s[i].n;
        st.b.n_seq++;
    }
    st.b.step = r->step++;
    if (rc == 0)
        rc = b->ops->submit(b, &st.b, e);
    if (rc == 0)
        rc = b->ops->collect(b, &out, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const struct text *t = &r->text[s[i].text];
        uint32_t *done = &r->done[s[i].text];
        for (uint32_t k = 0; k < s[i].n; k++, (*done)++)
            if (*done + 1 < t->n)
                diff_add(r->diff, (double)out.seq[i].target[k].logprob,
                         (double)t->next[*done], s[i].text, *done);
    }
    step_close(&st);
    return rc;
}

/* Submits a token more of each text; known: its id is given, else it is what
 * the step before drew. */
static int
submit_forced(struct run *r, struct step *st, uint32_t from, uint32_t n,
              uint32_t ahead, struct err *e)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct text *t = &r->text[from + i];
        uint32_t at = r->done[from + i] + ahead;
        st->q[i] = share_seq(r, from + i, 1, i);
        st->q[i].n_past = at;
        st->force[i] = greedy;
        st->force[i].allowed = t->id + at + 1;
        st->force[i].n_allowed = 1;
        st->q[i].sample = true;
        st->q[i].sampling = &st->force[i];
        st->q[i].n_top = 0;
        st->q[i].raw_logprobs = true;
        st->tok[i] = ahead ? TOKEN_SAMPLED : t->id[at];
    }
    st->b.n_seq = st->b.n_tok = n;
    st->b.step = r->step++;
    return r->w->cuda->ops->submit(r->w->cuda, &st->b, e);
}

static int
collect_forced(struct run *r, uint32_t from, uint32_t n, struct err *e)
{
    struct step_result out;
    int rc = r->w->cuda->ops->collect(r->w->cuda, &out, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        uint32_t at = r->done[from + i]++;
        if (out.seq[i].out[0] != r->text[from + i].id[at + 1])
            return err_set(e, ERR_MISMATCH, "text %u at %u: drew %d where "
                           "only %d was allowed", from + i, at,
                           out.seq[i].out[0], r->text[from + i].id[at + 1]);
        diff_add(r->diff, (double)out.seq[i].drawn[0].logprob,
                 (double)r->text[from + i].next[at], from + i, at);
    }
    return rc;
}

int
run_decode(struct run *r, uint32_t from, uint32_t n, uint32_t steps,
           struct err *e)
{
    struct step st[2];
    int rc = step_open(&st[0], n, n, 0);
    if (step_open(&st[1], n, n, 0) != 0)
        rc = ERR_NOMEM;
    if (rc == 0)
        rc = submit_forced(r, &st[0], from, n, 0, e);
    for (uint32_t i = 1; rc == 0 && i <= steps; i++) {
        if (i < steps)
            rc = submit_forced(r, &st[i % 2], from, n, 1, e);
        if (rc == 0)
            rc = collect_forced(r, from, n, e);
    }
    step_close(&st[0]);
    step_close(&st[1]);
    return rc;
}
