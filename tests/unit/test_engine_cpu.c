/*
 * The engine on the CPU back end with the model that ships with the project:
 * a request's tokens, greedy or drawn with a seed and penalties, are the same
 * alone and in company, in chunks, after preemption, with and without a prefix
 * hit, in both loops, and with a draft head that guesses at random. Two of the
 * requests have pictures, which are encoded between the others' steps.
 */
#include "config.h"

#include "engine/engine.h"

#include "cpu/cpu.h"
#include "cpu/tower.h"
#include "tests/unit/fake_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 8
#define MAX_TOKENS 30

#define N_DRAFTS 3
#define ROWS 5       /* of the picture, in cells of CELL pixels */
#define COLS 7
#define CELL 28

static struct model *model, *head;
static struct backend *plain, *drafting;
static uint32_t n_vocab;
static struct client alone[N];
static float picture[3 * ROWS * COLS * CELL * CELL];

/* Prompts of 1 to 225 tokens; two in three begin the same way. */
static void
make(struct client *c, uint32_t i)
{
    client_init(c, 1 + i * 32, i % 3 == 2 ? i : 77, n_vocab, MAX_TOKENS);
    for (uint32_t k = i * 26; k < c->req.n_prompt; k++)
        c->prompt[k] = (int32_t)((i * 131 + k * 7) % n_vocab);
    if (i == 4 || i == 6) {
        c->image[0] = (struct engine_image){
            .pixels = picture, .height = ROWS * CELL, .width = COLS * CELL,
            .pos = 10, .n_tokens = ROWS * (COLS + 1), .hash = {5, 5}};
        for (uint32_t k = 1; k <= ROWS * (COLS + 1); k++)
            c->prompt[9 + k] = k % (COLS + 1) ? 10
                               : k == ROWS * (COLS + 1) ? 13 : 12;
        c->req.image = c->image;
        c->req.n_image = 1;
    }
    if (i % 2 == 1)
        c->req.sampling = (struct sampling){
            .temperature = 0.9f, .top_p = 0.95f, .top_k = 50,
            .presence_penalty = 0.5f, .frequency_penalty = 0.3f,
            .repetition_penalty = 1.2f, .seed = i};
}

static struct engine *
start(struct backend *b, uint32_t blocks, bool cache, bool overlap,
      uint32_t chunk)
{
    struct err e = {0};
    struct engine *en;
    struct engine_options o = {
        .max_running = 8, .max_queue = 32, .step_tokens = 128,
        .prefill_chunk = chunk, .max_context = 512, .n_blocks = blocks,
        .prefix_cache = cache, .overlap = overlap, .n_vocab = n_vocab,
        .max_out = b == drafting ? 1 + N_DRAFTS : 1};
    if (engine_create(&o, b, &en, &e) != 0)
        fail_msg("%s", e.text);
    return en;
}

static void
test_company(void **state)
{
    static const struct {
        uint32_t blocks, chunk;
        bool cache, overlap, drafts;
    } way[] = {{64, 0, false, false, false}, {64, 0, true, true, false},
               {64, 9, true, false, false}, {9, 40, false, true, false},
               {64, 0, true, true, true}, {9, 40, true, true, true}};
    for (size_t w = 0; w < sizeof way / sizeof *way; w++) {
        struct engine *en = start(way[w].drafts ? drafting : plain,
                                  way[w].blocks, way[w].cache,
                                  way[w].overlap, way[w].chunk);
        struct client c[N];
        for (int round = 0; round < (way[w].cache ? 2 : 1); round++) {
            bool hit = false;
            for (uint32_t i = 0; i < N; i++) {
                make(&c[i], i);
                assert_int_equal(client_submit(&c[i], en), 0);
            }
            for (int i = 0; i < N; i++) {
                client_wait(&c[i]);
                assert_int_equal(c[i].finish, ENGINE_LENGTH);
                assert_int_equal(c[i].out.n, MAX_TOKENS);
                if (memcmp(c[i].out.id, alone[i].out.id,
                           MAX_TOKENS * sizeof(int32_t)) != 0)
                    fail_msg("way %zu, round %d: request %d differs", w,
                             round, i);
                hit |= c[i].n_cached > 0;
                client_free(&c[i]);
            }
            if (round == 1 && way[w].blocks == 64)
                assert_true(hit);
        }
        engine_destroy(en);
    }
}

static void
run_token(struct backend *b, uint32_t pos)
{
    static const struct sampling greedy = {.top_p = 1,
                                           .repetition_penalty = 1};
    const uint32_t block = 0;
    const int32_t token = (int32_t)(100 + pos);
    struct err e = {0};
    struct step_result out;
    struct batch_seq q = {.n_tok = 1, .n_past = pos, .block = &block,
                          .n_block = 1, .reset = pos == 0, .sample = true,
                          .max_out = 1, .sampling = &greedy, .n_top = -1};
    struct batch batch = {.n_tok = 1, .n_seq = 1, .token = &token,
                          .seq = &q, .step = pos};
    assert_int_equal(b->ops->submit(b, &batch, &e), 0);
    assert_int_equal(b->ops->collect(b, &out, &e), 0);
}

/* Steps run while a large image is encoded; it can be given up; and a small
 * one between steps has the vectors that it has alone. */
static void
test_images_between_steps(void **state)
{
    const struct backend_ops *ops = plain->ops;
    const int side = 1540;
    float *large = calloc(3 * (size_t)side * (size_t)side, sizeof *large);
    struct err e = {0};
    uint64_t h, calm, busy;
    assert_non_null(large);
    assert_int_equal(ops->encode_image(plain, large, side, side, &h, &e), 0);
    for (uint32_t i = 0; i < 4; i++)
        run_token(plain, i);
    assert_true(ops->image_pending(plain, &h));
    ops->free_image(plain, h);
    assert_false(ops->image_pending(plain, NULL));
    free(large);

    assert_int_equal(ops->encode_image(plain, picture, ROWS * CELL,
                                       COLS * CELL, &calm, &e), 0);
    /* The next one waits for it. */
    assert_int_equal(ops->encode_image(plain, picture, ROWS * CELL,
                                       COLS * CELL, &busy, &e), 0);
    assert_false(ops->image_pending(plain, &calm));
    for (uint32_t i = 0; ops->image_pending(plain, &busy); i++)
        run_token(plain, i % KV_BLOCK);
    const struct tower_image *a = (void *)(uintptr_t)calm;
    const struct tower_image *b = (void *)(uintptr_t)busy;
    assert_int_equal(a->n, ROWS * COLS);
    assert_memory_equal(a->vector, b->vector,
                        a->n * (size_t)a->dim * sizeof *a->vector);
    ops->free_image(plain, calm);
    ops->free_image(plain, busy);
}

static struct backend *
load(uint32_t n_drafts)
{
    struct err e = {0};
    struct backend *b = NULL;
    struct backend_limits l = {.max_seqs = 8, .max_step = 128,
                               .max_context = 512, .threads = 2,
                               .draft = n_drafts ? head : NULL,
                               .n_drafts = n_drafts};
    struct backend_plan p;
    if (backend_cpu.open(NULL, &b, &e) != 0 ||
        backend_cpu.plan(b, model, &l, &p, &e) != 0 || p.n_blocks < 64 ||
        backend_cpu.load(b, NULL, NULL, &e) != 0)
        fprintf(stderr, "%u blocks: %s\n", p.n_blocks, e.text);
    return b;
}

/* The reference: one at a time, plain loop, nothing cached. */
static int
setup(void **state)
{
    struct engine *en = start(plain, 64, false, false, 0);
    for (uint32_t i = 0; i < N; i++) {
        make(&alone[i], i);
        if (client_submit(&alone[i], en) != 0)
            return -1;
        client_wait(&alone[i]);
    }
    engine_destroy(en);
    return 0;
}

static int
teardown(void **state)
{
    for (int i = 0; i < N; i++)
        client_free(&alone[i]);
    backend_cpu.close(plain);
    backend_cpu.close(drafting);
    model_close(model);
    model_close(head);
    return 0;
}

int
main(void)
{
    const char *top = getenv("SIROCCO_SRCDIR");
    char dir[4096];
    if (top == NULL)
        return 77;
    snprintf(dir, sizeof dir, "%s/contrib/demo-model/model", top);
    struct err e = {0};
    struct model_options random = {.dummy = true, .seed = 3, .draft = true};
    if (model_open(dir, NULL, &model, &e) != 0 ||
        model_open(dir, &random, &head, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    for (size_t i = 0; i < sizeof picture / sizeof *picture; i++)
        picture[i] = (float)(i * 37 % 101) / 50 - 1;
    n_vocab = (uint32_t)model_params(model)->text.vocab;
    plain = load(0);
    drafting = load(N_DRAFTS);
    if (plain == NULL || drafting == NULL)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_company),
        cmocka_unit_test(test_images_between_steps)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
