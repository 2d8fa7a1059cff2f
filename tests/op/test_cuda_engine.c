/*
 * The engine on the CUDA back end with the demo model's three checkpoints:
 * greedy answers to chats, one with a picture and one of several thousand
 * tokens, must be those of the CPU back end, alone and in company, in chunks,
 * with so few KV blocks that requests are preempted, with prefixes found in
 * the cache, in both loops, and beside other requests, some cancelled.
 *
 * Where two ids are as likely to within rounding, either may come, and what
 * follows differs. So each answer of the CUDA back end is given to the CPU
 * back end as a text: every id of it must be the likeliest there, or at most
 * TIE less likely (whole.h has the size of errors). Most answers must be the
 * same ids. Which answers are right is no matter here: tests/e2e asks that.
 *
 * Exits 77 where there is no GPU.
 */
#include "config.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "chat/chat.h"
#include "engine/engine.h"
#include "json/json.h"
#include "tests/op/whole.h"
#include "tok/tok.h"

#define TIE .5
#define MAX_TOKENS 150
#define N 12
#define OTHER 6         /* requests beside them; two in three stay */
#define SPARE 16        /* blocks for those to begin with */
#define PICTURE 2       /* the question with a picture */
#define LONG 0          /* the question behind a long text */

static const char *const question[N] = {
    "What is key-17?",
    "Repeat: cedar maple birch",
    "What is in the picture?",
    "Reverse the word: lantern",
    "Write in upper case: quiet river stone",
    "How many words: one two three four five",
    "Sort: pear apple fig cherry",
    "What is 17 + 25?",
    "What is 123 + 989?",
    "What is the capital of France?",
    "Count to seven",
    "Facts: the lamp is green. The box is heavy. What colour is the lamp?",
};

/* A request and what came of it. */
struct client {
    struct engine_request r;
    engine_id id;
    struct ids prompt, out;
    struct engine_image image;
    float *pixels;
    enum engine_finish finish;
    uint32_t n_cached;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int32_t end_id;

static void
take_event(const struct engine_event *ev)
{
    struct client *c = ev->user;
    pthread_mutex_lock(&lock);
    ids_append(&c->out, ev->token, ev->n_tok);
    c->n_cached = ev->n_cached;
    c->finish = ev->finish;
    if (ev->error)
        printf("engine: %s\n", ev->error);
    free(ev->error);
    free(ev->logprobs);
    free(ev->prompt);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* Waits for n tokens, or for the end. */
static void
wait_for(struct client *c, size_t n)
{
    pthread_mutex_lock(&lock);
    while (c->finish == ENGINE_RUNNING && c->out.n < n)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

/* --- prompts --------------------------------------------------------------------- */

static int
encode(const struct chat *chat, const char *text, bool think, struct ids *out)
{
    struct chat_request req = {0};
    struct chat_prompt p = {0};
    struct chat_error ce = {0};
    struct arena *a = arena_create(0, 0);
    struct json_object *body = json_object_new_object();
    struct json_object *list = json_object_new_array();
    struct json_object *m = json_object_new_object();
    json_object_object_add(m, "role", json_object_new_string("user"));
    json_object_object_add(m, "content", json_object_new_string(text));
    json_object_array_add(list, m);
    json_object_object_add(body, "messages", list);
    int r = chat_parse(chat, body, a, &req, &ce);
    if (think)
        req.effort = (struct str){"high", 4};
    if (r == 0)
        r = chat_encode(chat, &req, a, &p, &ce);
    if (r == 0)
        r = ids_append(out, p.ids.id, p.ids.n);
    else
        printf("%s\n", ce.err.text);
    ids_free(&p.ids);
    json_object_put(body);
    arena_destroy(a);
    return r;
}

/* Lines of keys before the question; some 3,500 tokens. */
static char *
long_text(const char *ask)
{
    struct buf b = {0};
    for (int i = 0; i < 220; i++)
        buf_printf(&b, "key-%d is %d. ", i, (i * 7919 + 13) % 1000);
    buf_puts(&b, ask);
    return b.data ? (buf_cstr(&b), b.data) : NULL;
}

/* A red circle on a blue ground, 6 x 9 cells of 28, behind the first [INST]. */
static void
add_picture(struct client *c, const struct tok *t)
{
    enum { ROWS = 6, COLS = 9, H = 28 * ROWS, W = 28 * COLS };
    const int32_t inst = tok_special(t, "[INST]");
    struct ids with = {0};
    c->pixels = malloc(3 * H * W * sizeof *c->pixels);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            bool in = (y - 80) * (y - 80) + (x - 150) * (x - 150) < 60 * 60;
            c->pixels[y * W + x] = in ? 1.7f : -1.6f;
            c->pixels[H * W + y * W + x] = -1.5f;
            c->pixels[2 * H * W + y * W + x] = in ? -1.3f : 1.9f;
        }
    c->image = (struct engine_image){
        .pixels = c->pixels, .height = H, .width = W,
        .n_tokens = ROWS * (COLS + 1), .hash = {77, 78}};
    for (size_t i = 0; i < c->prompt.n; i++) {
        ids_push(&with, c->prompt.id[i]);
        if (c->prompt.id[i] != inst || c->image.pos > 0)
            continue;
        c->image.pos = (uint32_t)i + 1;
        for (int k = 1; k <= ROWS * (COLS + 1); k++)
            ids_push(&with, k % (COLS + 1) ? WHOLE_IMG
                            : k == ROWS * (COLS + 1) ? 13 : 12);
    }
    ids_free(&c->prompt);
    c->prompt = with;
    c->r.image = &c->image;
    c->r.n_image = 1;
}

static int
make(struct client *c, int i, const struct chat *chat, const struct tok *t)
{
    char *text = i == LONG ? long_text(question[i]) : NULL;
    *c = (struct client){0};
    int r = encode(chat, text ? text : question[i], i % 3 == 2, &c->prompt);
    free(text);
    c->r = (struct engine_request){
        .user = c, .post = take_event, .max_tokens = MAX_TOKENS,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .end_id = &end_id, .n_end = 1, .n_top = -1, .prompt_top = -1,
        .think = {.open = -1, .close = -1, .budget = -1},
    };
    if (r == 0 && i == PICTURE)
        add_picture(c, t);
    c->r.prompt = c->prompt.id;
    c->r.n_prompt = (uint32_t)c->prompt.n;
    return r;
}

static void
client_free(struct client *c)
{
    ids_free(&c->prompt);
    ids_free(&c->out);
    free(c->pixels);
}

/* --- the engine ------------------------------------------------------------------- */

static struct engine *
start(struct backend *b, const struct whole *w, uint32_t blocks, bool cache,
      bool overlap, uint32_t chunk)
{
    struct err e = {0};
    struct engine *en = NULL;
    struct engine_options o = {
        .max_running = 8, .max_queue = 32, .step_tokens = 512,
        .prefill_chunk = chunk, .max_context = w->l.max_context,
        .n_blocks = blocks, .prefix_cache = cache, .overlap = overlap,
        .n_vocab = w->n_vocab};
    if (engine_create(&o, b, &en, &e) != 0)
        printf("FAIL engine: %s\n", e.text);
    return en;
}

static int
submit(struct engine *en, struct client *c)
{
    c->out.n = 0;
    c->finish = ENGINE_RUNNING;
    return engine_submit(en, &c->r, &c->id);
}

/* Requests and blocks in use once the engine has come to rest. */
static uint32_t
settled(struct engine *en)
{
    struct engine_stats st;
    for (int i = 0; i < 1000; i++) {
        engine_stats(en, &st);
        if (st.running + st.waiting + st.blocks_used == 0)
            break;
        usleep(2000);
    }
    return st.running + st.waiting + st.blocks_used;
}

/* Every id of the answer is one that the CPU back end could have drawn. */
static int
plausible(struct whole *w, const struct client *c, double *worst)
{
    struct text t = {0};
    struct picture im = {.pixels = c->pixels, .height = c->image.height,
                         .width = c->image.width, .pos = c->image.pos,
                         .n_tokens = c->image.n_tokens};
    struct err e = {0};
    int r = text_random(&t, (uint32_t)(c->prompt.n + c->out.n), w->n_vocab,
                        1);
    if (r != 0)
        return r;
    memcpy(t.id, c->prompt.id, c->prompt.n * sizeof *t.id);
    memcpy(t.id + c->prompt.n, c->out.id, c->out.n * sizeof *t.id);
    if (c->pixels != NULL) {
        t.image = &im;
        t.n_image = 1;
    }
    r = whole_score(w, &t, &e);
    for (uint32_t i = (uint32_t)c->prompt.n; r == 0 && i < t.n; i++)
        *worst = fmax(*worst, (double)(t.best[i - 1] - t.next[i - 1]));
    t.image = NULL;
    t.n_image = 0;
    text_free(&t);
    if (r != 0)
        printf("FAIL %s\n", e.text);
    return r;
}

static unsigned long
preemptions(void)
{
    struct buf b = {0};
    unsigned long n = 0;
    if (metrics_text(&b, false) == 0) {
        const char *at = strstr(buf_cstr(&b), "\nsirocco_preemptions_total");
        if (at != NULL)
            n = strtoul(strchr(at + 1, ' '), NULL, 10);
    }
    buf_free(&b);
    return n;
}

struct way {
    const char *what;
    uint32_t blocks, chunk;  /* blocks 0: what the longest needs, and SPARE */
    bool cache, overlap;
    enum { NOBODY, OTHERS, CANCELLED } beside;
};

static const struct way ways[] = {
    {"together", 400, 0, false, false, NOBODY},
    {"overlapping steps, prefix cache", 400, 0, true, true, NOBODY},
    {"chunks of 37", 400, 37, false, true, OTHERS},
    {"few blocks", 0, 10, false, true, OTHERS},
    {"few blocks, prefix cache, cancels", 0, 10, true, true, CANCELLED},
};

/* Requests that go on past their end and are in the way, being the older
 * ones; some are cancelled while they run. */
static int
run_others(struct engine *en, struct client *other, bool cancel)
{
    for (int i = 0; i < OTHER; i++) {
        other[i].r.ignore_end = true;
        other[i].r.max_tokens = 2 * MAX_TOKENS;
        if (submit(en, &other[i]) != 0)
            return -1;
    }
    wait_for(&other[0], 1);
    for (int i = 0; i < OTHER && cancel; i += 3)
        engine_cancel(en, other[i].id);
    return 0;
}

static int
wait_others(struct client *other, bool cancel)
{
    int r = 0;
    for (int i = 0; i < OTHER; i++) {
        bool gone = cancel && i % 3 == 0;
        wait_for(&other[i], SIZE_MAX);
        if (other[i].finish != (gone ? ENGINE_CANCELLED : ENGINE_LENGTH))
            r = -1;
    }
    return r;
}

static int
try_way(struct whole *w, const struct way *way, struct client *c,
        struct client *other, const struct client *want, const char *model)
{
    uint32_t least = (c[LONG].r.n_prompt + MAX_TOKENS) / KV_BLOCK + SPARE;
    struct engine *en = start(w->cuda, w, way->blocks ? way->blocks : least,
                              way->cache, way->overlap, way->chunk);
    unsigned long before = preemptions();
    int same = 0, hits = 0, r = en == NULL ? -1 : 0, rounds = 0;
    double worst = 0;
    for (; r == 0 && rounds < (way->cache ? 2 : 1); rounds++) {
        if (way->beside != NOBODY)
            r = run_others(en, other, way->beside == CANCELLED);
        for (int i = 0; i < N && r == 0; i++)
            r = submit(en, &c[i]);
        for (int i = 0; i < N && r == 0; i++) {
            wait_for(&c[i], SIZE_MAX);
            bool alike = c[i].out.n == want[i].out.n
                         && memcmp(c[i].out.id, want[i].out.id,
                                   c[i].out.n * sizeof(int32_t)) == 0;
            same += alike;
            hits += c[i].n_cached > 0;
            if (c[i].finish != ENGINE_STOP && c[i].finish != ENGINE_LENGTH)
                r = -1;
            if (r == 0 && !alike)
                r = plausible(w, &c[i], &worst);
        }
        if (way->beside != NOBODY
            && wait_others(other, way->beside == CANCELLED) != 0)
            r = -1;
    }
    unsigned long out = preemptions() - before;
    uint32_t left = en == NULL ? 1 : settled(en);
    if (en != NULL)
        engine_destroy(en);
    bool ok = r == 0 && worst <= TIE && same >= rounds * N * 2 / 3
              && (!way->cache || hits > 0) && (way->blocks > 0 || out > 0) && left == 0;
    printf("%s %s, %s: %d of %d answers the same, worst choice %.3f below "
           "the CPU's, %d prefix hits, %lu preempted\n", ok ? "ok  " : "FAIL",
           model, way->what, same, rounds * N, worst, hits, out);
    fflush(stdout);
    return !ok;
}

/* The reference: one at a time, plain loop, nothing cached. */
static int
answer_all(struct whole *w, struct client *c)
{
    struct engine *en = start(w->cpu, w, w->l.n_blocks, false, false, 0);
    int r = en == NULL ? -1 : 0;
    for (int i = 0; i < N && r == 0; i++) {
        r = submit(en, &c[i]);
        if (r == 0)
            wait_for(&c[i], SIZE_MAX);
    }
    if (en != NULL)
        engine_destroy(en);
    return r;
}

static int
check_ways(struct whole *w, const struct chat *chat, const struct tok *t,
           const char *model)
{
    struct client want[N] = {{{0}}}, c[N] = {{{0}}}, other[OTHER] = {{{0}}};
    int bad = 0, r = 0;
    for (int i = 0; i < N && r == 0; i++) {
        r = make(&want[i], i, chat, t);
        if (r == 0)
            r = make(&c[i], i, chat, t);
    }
    for (int i = 0; i < OTHER && r == 0; i++)
        r = make(&other[i], i + 4, chat, t);
    if (r == 0)
        r = answer_all(w, want);
    for (size_t i = 0; r == 0 && i < sizeof ways / sizeof *ways; i++)
        bad += try_way(w, &ways[i], c, other, want, model);
    for (int i = 0; i < N; i++) {
        client_free(&want[i]);
        client_free(&c[i]);
    }
    for (int i = 0; i < OTHER; i++)
        client_free(&other[i]);
    return bad + (r != 0);
}

static int
check_model(const char *top, const char *name)
{
    const struct whole_limits l = {.max_seqs = 8, .max_step = 512,
                                   .max_context = 5120, .n_blocks = 400};
    struct whole w = {0};
    struct tok *t = NULL;
    struct chat *chat = NULL;
    struct err e = {0};
    char dir[4096], path[4200];
    snprintf(dir, sizeof dir, "%s/contrib/demo-model/%s", top, name);
    snprintf(path, sizeof path, "%s/tekken.json", dir);
    int bad = tok_load(path, &t, &e) != 0
              || chat_create(t, CHAT_LENIENT, &chat, &e) != 0
              || whole_open(&w, dir, false, &l, &e) != 0;
    if (bad) {
        printf("FAIL %s: %s\n", name, e.text);
    } else {
        end_id = tok_special(t, "</s>");
        bad = check_ways(&w, chat, t, name);
    }
    whole_close(&w);
    chat_free(chat);
    tok_free(t);
    return bad;
}

int
main(int argc, char **argv)
{
    static const char *const models[] = {"model", "model-fp8", "model-nvfp4"};
    const char *top = getenv("SIROCCO_SRCDIR");
    int n = 0, bad = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no GPU\n");
        return 77;
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (argc < 2 || strcmp(argv[1], models[i]) == 0)
            bad += check_model(top ? top : ".", models[i]);
    return bad != 0;
}
