#include "config.h"

#include "engine/step.h"

#include "engine/grammar_step.h"
#include "engine/images.h"

#include <stdlib.h>

#define GREEDY 1e-5f /* backend.h: temperatures below are */

static int image_room(struct step *st, size_t n, struct err *e);
static int make_mask(struct step *st, struct request *r, uint32_t n_tok,
                     bool tells, struct err *e);
static void add_seq(struct step *st, struct request *r, uint32_t n_tok);
static uint32_t most_out(const struct step *st, const struct request *r);
static uint32_t add_tokens(struct step *st, const struct request *r,
                           uint32_t n_tok);
static bool add_targets(struct step *st, const struct request *r,
                        uint32_t n_tok);

int
step_init(struct step *st, const struct engine_options *o)
{
    *st = (struct step){.max_out = o->max_out};
    st->token = calloc(o->step_tokens, sizeof *st->token);
    st->target = calloc(o->step_tokens, sizeof *st->target);
    st->seq = calloc(o->max_running, sizeof *st->seq);
    st->entry = calloc(o->max_running, sizeof *st->entry);
    if (st->token == NULL || st->target == NULL || st->seq == NULL ||
        st->entry == NULL) {
        step_destroy(st);
        return ERR_NOMEM;
    }
    st->batch.token = st->token;
    st->batch.seq = st->seq;
    return 0;
}

void
step_destroy(struct step *st)
{
    free(st->token);
    free(st->target);
    free(st->seq);
    free(st->entry);
    free(st->image);
    *st = (struct step){0};
}

int
step_build(struct step *st, const struct plan *p, struct backend *b,
           step_fail_fn fail, void *arg, struct err *e)
{
    struct batch *batch = &st->batch;
    batch->n_tok = batch->n_seq = batch->n_image = 0;
    st->held = false;
    for (uint32_t i = 0; i < p->n; i++) {
        struct request *r = p->entry[i].r;
        int64_t n = p->entry[i].n_tok;
        if (r->in.n_image > 0)
            n = images_prepare(r, (uint32_t)n, b, &st->held, e);
        if (n == ERR_DEVICE)
            return ERR_DEVICE;
        int rc = n < 0 ? (int)n : image_room(st, r->in.n_image, e);
        if (rc == 0 && n > 0)
            rc = make_mask(st, r, (uint32_t)n, b->ops->tells_drafts, e);
        if (rc != 0)
            fail(arg, r, e);
        else if (n > 0)
            add_seq(st, r, (uint32_t)n);
    }
    return 0;
}

static int
image_room(struct step *st, size_t n, struct err *e)
{
    size_t need = st->batch.n_image + n;
    if (need <= st->cap_image)
        return 0;
    struct batch_image *im = realloc(st->image, 2 * need * sizeof *im);
    if (im == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    st->image = im;
    st->cap_image = (uint32_t)(2 * need);
    st->batch.image = im;
    return 0;
}

/* The masks of a step that draws: one for each token that it may give when the
 * back end tells its drafts, else one for the first. */
static int
make_mask(struct step *st, struct request *r, uint32_t n_tok, bool tells,
          struct err *e)
{
    uint32_t left = r->limit - request_n_out(r), most = st->max_out;
    r->n_mask = 0;
    if (r->mask == NULL || !sched_draws(r, n_tok))
        return 0;
    if (!tells)
        return grammar_step_mask(r, 1, NULL, e);
    return grammar_step_mask(r, most < left ? most : left, &r->n_mask, e);
}

static void
add_seq(struct step *st, struct request *r, uint32_t n_tok)
{
    struct batch *batch = &st->batch;
    uint32_t max_out = most_out(st, r), left = r->limit - request_n_out(r);
    bool draws = sched_draws(r, n_tok);
    struct batch_seq *q = &st->seq[batch->n_seq];
    *q = (struct batch_seq){
        .slot = r->slot, .first = batch->n_tok, .n_tok = n_tok,
        .n_past = r->n_sched, .block = r->block, .n_block = r->n_block,
        .max_out = max_out < left ? max_out : left,
        .reset = r->reset, .sample = draws, .sampling = &r->in.sampling,
        .n_drawn = request_n_out(r) + r->n_draws, .history = r->token,
        .n_history = r->n_token, .n_prompt = r->n_prompt,
        .mask = draws ? r->mask : NULL, .n_mask = r->n_mask,
        .n_top = r->in.n_top, .ask = r->in.ask, .n_ask = r->in.n_ask,
        .raw_logprobs = r->in.raw_logprobs};
    if (add_targets(st, r, n_tok)) {
        q->target = st->target + q->first;
        q->target_top = r->in.prompt_top;
    }
    st->entry[batch->n_seq++] = (struct step_entry){
        .r = r, .epoch = r->epoch, .n_past = r->n_sched, .n_tok = n_tok,
        .sample = draws, .n_mask = r->n_mask ? r->n_mask : 1};
    batch->n_image += images_batch(r, r->n_sched, n_tok, q->first,
                                   st->image + batch->n_image);
    batch->n_tok += add_tokens(st, r, n_tok);
    r->reset = false;
    r->n_sched += n_tok;
    r->n_draws += draws;
    r->n_fly++;
}

/* Where the back end does not tell its drafts, a mask holds for the first
 * token of a step only, and the engine checks the others afterwards. For greedy
 * output that is the same, but refusing drawn tokens would bend the odds, so
 * those go without drafts. */
static uint32_t
most_out(const struct step *st, const struct request *r)
{
    bool greedy = r->in.sampling.temperature < GREEDY;
    return r->mask == NULL || r->n_mask > 0 || greedy ? st->max_out : 1;
}

static uint32_t
add_tokens(struct step *st, const struct request *r, uint32_t n_tok)
{
    for (uint32_t i = 0; i < n_tok; i++) {
        uint32_t at = r->n_sched + i;
        st->token[st->batch.n_tok + i] =
            at < r->n_token ? r->token[at] : TOKEN_SAMPLED;
    }
    return n_tok;
}

/* Each prompt token is asked for after the token before it. False when the
 * prompt's log-probabilities are not wanted here. */
static bool
add_targets(struct step *st, const struct request *r, uint32_t n_tok)
{
    if (r->in.prompt_top < 0 || r->t_first != 0 ||
        r->n_sched + 1 >= r->n_prompt)
        return false;
    for (uint32_t i = 0; i < n_tok; i++) {
        uint32_t at = r->n_sched + i + 1;
        st->target[st->batch.n_tok + i] =
            at < r->n_prompt ? r->token[at] : -1;
    }
    return true;
}
