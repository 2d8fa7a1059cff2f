/* Speculation: the same tokens with and without a draft head, and drafts that
 * hold when the head is right. */
#include "config.h"

#include "cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/draft.h"
#include "cpu/tower.h"
#include "made_pair.h"

#define VOCAB PAIR_VOCAB
#define NEW 110         /* tokens a sequence gains */
#define SEQS 3

static struct model *target, *head;

static struct backend *
open_cpu(uint32_t n_drafts)
{
    struct backend *b = NULL;
    struct backend_plan plan;
    struct backend_limits l = {
        .max_seqs = 4, .max_step = 300, .max_context = 192,
        .kv_bytes = 1 << 20, .draft = n_drafts ? head : NULL,
        .n_drafts = n_drafts};
    struct err e = {0};
    if (backend_cpu.open("threads=2", &b, &e) != 0
        || backend_cpu.plan(b, target, &l, &plan, &e) != 0
        || backend_cpu.load(b, NULL, NULL, &e) != 0)
        fail_msg("%s", e.text);
    assert_true(plan.fits && plan.n_blocks >= 3 * SEQS);
    return b;
}

struct sequence {
    int32_t text[16 + NEW + BACKEND_OUT_MAX];
    float logprob[16 + NEW + BACKEND_OUT_MAX];
    uint32_t n_prompt, n, n_done; /* tokens known, and in the cache */
    uint32_t block[3];
    bool reset;
};

struct tally { uint32_t steps, drafts, kept; };

/* Runs SEQS sequences until each has NEW tokens, as the engine would: prompts
 * of unlike lengths, blocks as needed, and every `forget`th step of a sequence
 * keeps only one token and starts over with a reset. */
static struct tally
generate(struct backend *b, const struct sampling *p, uint32_t max_out,
         uint32_t forget, struct sequence *s)
{
    struct tally tally = {0};
    for (uint32_t i = 0; i < SEQS; i++) {
        s[i] = (struct sequence){.n_prompt = 1 + 6 * i, .n = 1 + 6 * i,
                                 .block = {i, 10 + i, 20 + i},
                                 .reset = true};
        for (uint32_t k = 0; k < s[i].n; k++)
            s[i].text[k] = (int32_t)((k * 5 + i) % VOCAB);
    }
    for (;; tally.steps++) {
        struct batch_seq q[SEQS];
        uint32_t who[SEQS], n_seq = 0, n_tok = 0;
        int32_t token[300];
        for (uint32_t i = 0; i < SEQS; i++) {
            uint32_t left = s[i].n_prompt + NEW - s[i].n;
            uint32_t n = s[i].n - s[i].n_done;
            uint32_t end = s[i].n + (max_out < left ? max_out : left) - 1;
            if (left == 0)
                continue;
            memcpy(token + n_tok, s[i].text + s[i].n_done,
                   n * sizeof *token);
            who[n_seq] = i;
            q[n_seq++] = (struct batch_seq){
                .slot = i, .first = n_tok, .n_tok = n,
                .n_past = s[i].n_done, .block = s[i].block,
                .n_block = (end + KV_BLOCK - 1) / KV_BLOCK,
                .max_out = max_out < left ? max_out : left,
                .reset = s[i].reset, .sample = true, .sampling = p,
                .n_drawn = s[i].n - s[i].n_prompt, .history = s[i].text,
                .n_history = s[i].n, .n_prompt = s[i].n_prompt, .n_top = 1};
            n_tok += n;
        }
        if (n_seq == 0)
            return tally;
        struct batch batch = {.n_tok = n_tok, .n_seq = n_seq,
                              .token = token, .seq = q};
        struct step_result r;
        struct err e = {0};
        if (b->ops->submit(b, &batch, &e) != 0
            || b->ops->collect(b, &r, &e) != 0)
            fail_msg("%s", e.text);
        for (uint32_t k = 0; k < n_seq; k++) {
            struct sequence *x = &s[who[k]];
            uint32_t n = r.seq[k].n_out;
            assert_true(n >= 1 && n <= q[k].max_out);
            assert_true(n <= r.seq[k].n_draft + 1);
            x->reset = forget > 0 && (tally.steps + who[k]) % forget == 0;
            if (x->reset)
                n = 1;
            tally.drafts += r.seq[k].n_draft;
            tally.kept += r.seq[k].n_out - 1;
            for (uint32_t i = 0; i < n; i++) {
                assert_int_equal(r.seq[k].drawn[i].id, r.seq[k].out[i]);
                x->logprob[x->n] = r.seq[k].drawn[i].logprob;
                x->text[x->n++] = r.seq[k].out[i];
            }
            x->n_done = x->n - 1;
        }
    }
}

static void
same_output(const struct sampling *p, uint32_t forget, struct tally *tally)
{
    static struct sequence want[SEQS], got[SEQS];
    struct backend *plain = open_cpu(0);
    generate(plain, p, 1, 0, want);
    plain->ops->close(plain);
    for (uint32_t drafts = 1; drafts <= 7; drafts += 2) {
        struct backend *b = open_cpu(drafts);
        *tally = generate(b, p, drafts + 1, forget, got);
        for (int i = 0; i < SEQS; i++) {
            assert_memory_equal(got[i].text, want[i].text,
                                (want[i].n_prompt + NEW)
                                * sizeof *want[i].text);
            assert_memory_equal(got[i].logprob, want[i].logprob,
                                (want[i].n_prompt + NEW) * sizeof(float));
        }
        b->ops->close(b);
    }
}

static const struct sampling greedy = {.top_p = 1, .repetition_penalty = 1};
static const struct sampling warm = {
    .temperature = 1.5f, .top_p = 0.9f, .repetition_penalty = 1.05f,
    .frequency_penalty = 0.1f, .seed = 11};

static void
a_right_head_is_always_right(void **state)
{
    (void)state;
    struct tally t;
    made_pair(false, &target, &head);
    same_output(&greedy, 0, &t);
    /* Seven drafts, all kept: one token, then eight a step, less what the end
     * of a step's last block cuts off, once a block. */
    assert_int_equal(t.kept, t.drafts);
    assert_in_range(t.steps, 1 + (NEW - 1 + 7) / 8,
                    3 + (NEW - 1 + 7) / 8);
    same_output(&warm, 0, &t);
    assert_true(t.kept > 0 && t.kept < t.drafts);
    same_output(&greedy, 3, &t);
    same_output(&warm, 4, &t);
    model_close(target);
    model_close(head);
}

static void
a_wrong_head_changes_nothing(void **state)
{
    (void)state;
    struct tally t;
    made_pair(true, &target, &head);
    same_output(&greedy, 0, &t);
    assert_true(t.kept < t.drafts / 4);
    same_output(&warm, 0, &t);
    same_output(&warm, 2, &t);
    model_close(target);
    model_close(head);
}

static void
heads_are_checked(void **state)
{
    (void)state;
    struct backend *b = NULL;
    struct backend_plan plan;
    struct backend_limits l = {.max_seqs = 1, .max_step = 8,
                               .max_context = 64, .kv_bytes = 1 << 20};
    struct err e = {0};
    made_pair(false, &target, &head);
    assert_int_equal(backend_cpu.open(NULL, &b, &e), 0);
    l.draft = head;
    assert_int_equal(backend_cpu.plan(b, target, &l, &plan, &e), ERR_RANGE);
    l.n_drafts = BACKEND_OUT_MAX;
    assert_int_equal(backend_cpu.plan(b, target, &l, &plan, &e), ERR_RANGE);
    l.n_drafts = 3;
    assert_int_equal(backend_cpu.plan(b, target, &l, &plan, &e), 0);
    assert_int_equal(plan.bytes_per_block, 2 * 2 * KV_BLOCK * 24 * 4);
    l.draft = target;
    assert_int_equal(backend_cpu.plan(b, target, &l, &plan, &e),
                     ERR_MISMATCH);
    backend_cpu.close(b);
    model_close(target);
    model_close(head);
}

/* Drafts stand between the tokens of a batch; the vectors of an image find
 * theirs. */
static void
images_beside_drafts(void **state)
{
    (void)state;
    enum { N = 3 };
    struct tower_image *im = malloc(sizeof *im + N * sizeof(float));
    const int32_t token[] = {5, 9, 10, 10, 12, 10};
    const uint32_t place[] = {0, 3, 4, 5, 6, 7}; /* two drafts behind 5 */
    assert_non_null(im);
    im->n = N;
    im->dim = 1;
    for (int i = 0; i < N; i++)
        im->vector[i] = (float)(100 + i);
    struct batch_image image = {.token = 2, .n = N,
                                .handle = (uint64_t)(uintptr_t)im};
    struct batch b = {.n_tok = 6, .token = token, .image = &image,
                      .n_image = 1};
    const float want[8] = {0, 0, 0, 0, 100, 101, 0, 102};
    const float *vector[8] = {0};
    tower_vectors(&b, place, 1, vector);
    for (int t = 0; t < 8; t++)
        assert_true(vector[t] ? *vector[t] == want[t] : want[t] == 0);
    free(im);
}

/* The head sees an image as the target does, not its place holder. */
static void
the_head_sees_images(void **state)
{
    (void)state;
    enum { DIM = 4 };
    const float vector[DIM] = {9, 8, 7, 6}, hidden[DIM] = {-1, -2, -3, -4};
    float pair[2 * DIM];
    struct query query[1];
    struct net without_embeddings = {.p = {.dim = DIM}};
    struct drafter d = {.target = &without_embeddings, .pair = pair,
                        .query = query};
    d.net.p.dim = DIM;
    draft_add(&d, 3, vector, hidden, (struct query){5, NULL});
    assert_int_equal(d.n, 1);
    assert_memory_equal(pair, vector, sizeof vector);
    assert_memory_equal(pair + DIM, hidden, sizeof hidden);
    assert_int_equal(query[0].pos, 5);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_head_is_always_right),
        cmocka_unit_test(a_wrong_head_changes_nothing),
        cmocka_unit_test(heads_are_checked),
        cmocka_unit_test(images_beside_drafts),
        cmocka_unit_test(the_head_sees_images),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
