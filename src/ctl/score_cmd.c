/*
 * siroccoctl score: log-probabilities of given ids, straight from a back end.
 * A sequence is run in steps of --step tokens, so that --step 1 checks decode
 * and a large one prefill.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/command.h"
#include "ctl/session.h"
#include "json/json.h"

struct score {
    struct session session;
    uint32_t max_context, step_tokens;
    uint32_t *block;        /* block table of the one sequence */
    uint64_t step;
};

/* What is kept of each position. */
struct position {
    float next, best;
    int32_t argmax;
};

static const struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};

/* One step over ids[past .. past + n); fills pos for these positions. */
static int
score_step(struct score *s, const struct ids *ids, uint32_t past, uint32_t n,
           const int32_t *target, struct position *pos, struct err *e)
{
    struct backend *b = s->session.backend;
    struct batch_seq seq = {
        .n_tok = n, .n_past = past, .block = s->block,
        .n_block = s->session.plan.n_blocks, .reset = past == 0, .max_out = 1,
        .sampling = &greedy, .n_top = -1, .target = target + past,
        .target_top = 1, .raw_logprobs = true,
        .history = ids->id, .n_history = past + n, .n_prompt = past + n,
    };
    struct batch batch = {.n_tok = n, .n_seq = 1, .token = ids->id + past,
                          .seq = &seq, .step = ++s->step};
    struct step_result r;

    int rc = b->ops->submit(b, &batch, e);
    if (rc == 0)
        rc = b->ops->collect(b, &r, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        pos[past + i].next = r.seq[0].target[i].logprob;
        pos[past + i].argmax = r.seq[0].target_top[i].id;
        pos[past + i].best = r.seq[0].target_top[i].logprob;
    }
    return rc;
}

static int
put_result(struct buf *out, const struct position *pos, size_t n)
{
    int rc = buf_puts(out, "{\"next_logprob\": [");
    for (size_t i = 0; rc == 0 && i + 1 < n; i++)
        rc = buf_printf(out, i ? ", %.9g" : "%.9g", (double)pos[i].next);
    if (rc == 0)
        rc = buf_puts(out, "], \"argmax\": [");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = buf_printf(out, i ? ", %d" : "%d", (int)pos[i].argmax);
    if (rc == 0)
        rc = buf_puts(out, "], \"argmax_logprob\": [");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = buf_printf(out, i ? ", %.9g" : "%.9g", (double)pos[i].best);
    return rc ? rc : buf_puts(out, "]}");
}

static int
check_ids(const struct score *s, const struct ids *ids, struct err *e)
{
    const struct model_params *p = model_params(s->session.model);

    if (ids->n == 0)
        return err_set(e, ERR_RANGE, "no ids");
    if (ids->n > s->max_context)
        return err_set(e, ERR_LIMIT, "%zu ids are more than --max-context %u",
                       ids->n, s->max_context);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->id[i] >= p->text.vocab)
            return err_set(e, ERR_RANGE, "element %zu: %d is outside the "
                           "vocabulary of %d", i, (int)ids->id[i],
                           p->text.vocab);
    return 0;
}

static int
score_line(void *arg, struct json_object *in, struct buf *out, struct err *e)
{
    struct score *s = arg;
    struct ids ids = {0};
    struct position *pos = NULL;
    int32_t *target = NULL;

    int rc = command_ids(in, &ids, e);
    if (rc == 0)
        rc = check_ids(s, &ids, e);
    if (rc != 0)
        goto out;
    pos = calloc(ids.n, sizeof *pos);
    target = calloc(ids.n, sizeof *target);
    if (pos == NULL || target == NULL) {
        rc = err_set(e, ERR_NOMEM, "out of memory");
        goto out;
    }
    /* The last position has no next token; any id makes the back end report
     * the alternatives there too. */
    memcpy(target, ids.id + 1, (ids.n - 1) * sizeof *target);
    for (size_t past = 0; rc == 0 && past < ids.n; past += s->step_tokens) {
        size_t left = ids.n - past;
        rc = score_step(s, &ids, (uint32_t)past,
                        left < s->step_tokens ? (uint32_t)left
                                              : s->step_tokens,
                        target, pos, e);
    }
    if (rc == 0)
        rc = put_result(out, pos, ids.n);
out:
    free(pos);
    free(target);
    ids_free(&ids);
    return rc;
}

int
score_command(int argc, char **argv)
{
    struct session_options o;
    struct score s = {0};
    struct err e = {0};

    int rc = session_arguments(argc, argv, &o);
    if (rc != EXIT_OK)
        return rc;
    s.max_context = o.max_context;
    s.step_tokens = o.max_step;
    if (session_open(&o, &s.session, &e) != 0)
        return command_fail(argv[0], "%s", e.text);
    if (s.session.model == NULL) {
        session_close(&s.session);
        return command_fail(argv[0], "this back end has no model");
    }
    s.block = calloc(s.session.plan.n_blocks, sizeof *s.block);
    if (s.block == NULL) {
        session_close(&s.session);
        return command_fail(argv[0], "out of memory");
    }
    for (uint32_t i = 0; i < s.session.plan.n_blocks; i++)
        s.block[i] = i;
    rc = command_lines(argv[0], score_line, &s);
    free(s.block);
    session_close(&s.session);
    return rc;
}
