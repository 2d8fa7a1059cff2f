/*
 * siroccoctl bench engine: a back end under the engine, without a server.
 *
 * Decode: for each batch size that many requests with distinct random prompts
 * run to --tokens; the rate is counted from the moment all have their first
 * token until the step before the first one ends, so that only full batches
 * are in it. Prefill: one
 * request of each length, time to its first token. Every point is run --runs
 * times; median, lowest and highest are shown, and for decoding the mean pause
 * of the device between two steps, when it has a clock. The prefix cache is
 * off.
 */
#include "config.h"

#include "ctl/bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ctl/command.h"
#include "ctl/session.h"
#include "engine/engine.h"

#define POINTS_MAX 32
#define VOCAB_DEFAULT 131072

struct points {
    uint32_t x[POINTS_MAX];
    size_t n;
};

struct run {
    struct engine *en;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    uint32_t n, n_first, n_ended;
    uint64_t t_all_first, t_first_end;
    uint64_t tokens;          /* between those two */
    struct engine_stats first, last; /* at those two */
    bool failed;
    char error[256];
};

struct caller {
    struct run *run;
    bool started;
};

struct engine_bench {
    struct session s;
    struct engine *en;
    uint32_t n_vocab, prompt, tokens;
    long long runs;
    uint64_t seed;
    bool json;
};

static int parse_points(const char *option, const char *text,
                        struct points *out);
static uint32_t largest(const struct points *p);
static int start(struct engine_bench *b, struct session_options *o,
                 struct err *e);
static int one_run(struct engine_bench *b, uint32_t n, uint32_t n_prompt,
                   uint32_t n_tokens, struct run *r, struct err *e);
static void post(const struct engine_event *ev);
static int point(struct engine_bench *b, const char *what, uint32_t x,
                 struct err *e);

int
bench_engine(int argc, char **argv)
{
    const char *batches = "1,2,4,8,16", *prefills = "512,2048";
    const char *prompt = NULL, *tokens = NULL, *runs = NULL, *threads = NULL;
    const char *vocab = NULL, *step = NULL;
    struct engine_bench b = {.seed = clock_ns()};
    struct session_options o = {.max_step = 8192};
    struct points batch = {0}, prefill = {0};
    struct err e = {0};
    const struct option_row rows[] = {
        {"model", &o.model}, {"backend", &o.backend},
        {"batches", &batches}, {"prefills", &prefills}, {"prompt", &prompt},
        {"tokens", &tokens}, {"runs", &runs}, {"threads", &threads},
        {"step", &step}, {"vocab", &vocab}, {"dummy", NULL, &o.dummy},
        {"json", NULL, &b.json}, {NULL}};
    long long n_prompt = 128, n_tokens = 64, n_threads = 0, n_step = 512;
    long long n_vocab = VOCAB_DEFAULT;
    b.runs = 5;
    if (command_options(argc, argv, rows) != EXIT_OK ||
        command_number("prompt", prompt, 1, 1 << 20, &n_prompt) ||
        command_number("tokens", tokens, 8, 1 << 20, &n_tokens) ||
        command_number("runs", runs, 1, 1000, &b.runs) ||
        command_number("threads", threads, 0, 1024, &n_threads) ||
        command_number("step", step, 1, 1 << 20, &n_step) ||
        command_number("vocab", vocab, 1, 1 << 24, &n_vocab) ||
        parse_points("batches", batches, &batch) ||
        parse_points("prefills", prefills, &prefill))
        return EXIT_USAGE;
    b.prompt = (uint32_t)n_prompt;
    b.tokens = (uint32_t)n_tokens;
    b.n_vocab = (uint32_t)n_vocab;
    o.threads = (int)n_threads;
    o.n_vocab = b.n_vocab;
    o.max_seqs = largest(&batch);
    o.max_step = (uint32_t)n_step > o.max_seqs ? (uint32_t)n_step
                                               : o.max_seqs;
    o.max_context = b.prompt + b.tokens;
    if (largest(&prefill) >= o.max_context)
        o.max_context = largest(&prefill) + 1;
    int rc = start(&b, &o, &e);
    for (size_t i = 0; rc == 0 && i < batch.n; i++)
        rc = point(&b, "decode", batch.x[i], &e);
    for (size_t i = 0; rc == 0 && i < prefill.n; i++)
        rc = point(&b, "prefill", prefill.x[i], &e);
    if (b.en)
        engine_destroy(b.en);
    session_close(&b.s);
    return rc ? command_fail("bench", "%s", e.text) : EXIT_OK;
}

static int
parse_points(const char *option, const char *text, struct points *out)
{
    while (*text != '\0') {
        char *end;
        unsigned long x = strtoul(text, &end, 10);
        if (end == text || (*end != ',' && *end != '\0') || x == 0 ||
            x > 1 << 20 || out->n == POINTS_MAX) {
            fprintf(stderr, "siroccoctl: --%s: '%s' is no list of up to %d "
                    "numbers\n", option, text, POINTS_MAX);
            return EXIT_USAGE;
        }
        out->x[out->n++] = (uint32_t)x;
        text = *end ? end + 1 : end;
    }
    return EXIT_OK;
}

static uint32_t
largest(const struct points *p)
{
    uint32_t most = 1;
    for (size_t i = 0; i < p->n; i++)
        if (p->x[i] > most)
            most = p->x[i];
    return most;
}

static int
start(struct engine_bench *b, struct session_options *o, struct err *e)
{
    int rc = session_open(o, &b->s, e);
    if (rc != 0)
        return rc;
    if (b->s.model != NULL)
        b->n_vocab = (uint32_t)model_params(b->s.model)->text.vocab;
    struct engine_options eo = {
        .max_running = o->max_seqs, .max_queue = o->max_seqs,
        .step_tokens = o->max_step, .max_context = o->max_context,
        .n_blocks = b->s.plan.n_blocks, .overlap = true,
        .n_vocab = b->n_vocab, .max_out = 1};
    return engine_create(&eo, b->s.backend, &b->en, e);
}

/* Runs a point --runs times and prints its line. */
static int
point(struct engine_bench *b, const char *what, uint32_t x, struct err *e)
{
    bool decode = strcmp(what, "decode") == 0;
    struct samples rate = {0}, pause = {0};
    int rc = 0;
    for (long long i = 0; rc == 0 && i < b->runs; i++) {
        struct run r = {.en = b->en};
        uint64_t from = clock_ns();
        rc = decode ? one_run(b, x, b->prompt, b->tokens, &r, e)
                    : one_run(b, 1, x, 1, &r, e);
        double s = decode ? (double)(r.t_first_end - r.t_all_first)
                          : (double)(r.t_all_first - from);
        double n = decode ? (double)r.tokens : x;
        if (rc == 0 && samples_add(&rate, s > 0 ? n / (s * 1e-9) : 0) != 0)
            rc = err_set(e, ERR_NOMEM, "out of memory");
        double n_pause = (double)(r.last.pauses - r.first.pauses);
        if (rc == 0 && decode && n_pause > 0 &&
            samples_add(&pause, (double)(r.last.pause_ns - r.first.pause_ns) *
                                    1e-3 / n_pause) != 0)
            rc = err_set(e, ERR_NOMEM, "out of memory");
    }
    double mid = samples_percentile(&rate, 50);
    double low = samples_percentile(&rate, 0);
    double high = samples_percentile(&rate, 100);
    if (rc == 0 && b->json)
        printf("{\"what\": \"%s\", \"%s\": %u, \"runs\": %lld, "
               "\"tokens_s\": %.2f, \"lowest\": %.2f, \"highest\": %.2f",
               what, decode ? "batch" : "tokens", x, b->runs, mid, low, high);
    else if (rc == 0)
        printf("%-8s %s %-6u  %10.1f tokens/s  (%.1f to %.1f in %lld runs)",
               what, decode ? "batch" : "prompt", x, mid, low, high, b->runs);
    if (rc == 0 && pause.n > 0)
        printf(b->json ? ", \"pause_us\": %.2f" : "  pause %.2f us",
               samples_percentile(&pause, 50));
    if (rc == 0)
        printf(b->json ? "}\n" : "\n");
    fflush(stdout);
    samples_free(&rate);
    samples_free(&pause);
    return rc;
}

static int32_t *
random_prompt(struct engine_bench *b, uint32_t n)
{
    int32_t *p = malloc(n * sizeof *p);
    for (uint32_t i = 0; p != NULL && i < n; i++) {
        b->seed = b->seed * 6364136223846793005ull + 1442695040888963407ull;
        p[i] = (int32_t)((b->seed >> 33) % b->n_vocab);
    }
    return p;
}

static int
one_run(struct engine_bench *b, uint32_t n, uint32_t n_prompt,
        uint32_t n_tokens, struct run *r, struct err *e)
{
    struct caller *c = calloc(n, sizeof *c);
    uint32_t sent = 0;
    int rc = c ? 0 : ERR_NOMEM;
    r->n = n;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->ended, NULL);
    for (; rc == 0 && sent < n; sent += rc == 0) {
        struct engine_request q = {
            .user = &c[sent], .post = post, .n_prompt = n_prompt,
            .max_tokens = n_tokens, .ignore_end = true, .n_top = -1,
            .prompt_top = -1,
            .sampling = {.temperature = 1, .top_p = 1,
                         .repetition_penalty = 1, .seed = sent + 1},
            .think = {.open = -1, .close = -1, .budget = -1}};
        engine_id id;
        int32_t *prompt = random_prompt(b, n_prompt);
        c[sent].run = r;
        q.prompt = prompt;
        rc = prompt ? engine_submit(b->en, &q, &id) : ERR_NOMEM;
        free(prompt);
    }
    pthread_mutex_lock(&r->lock);
    while (r->n_ended < sent)
        pthread_cond_wait(&r->ended, &r->lock);
    pthread_mutex_unlock(&r->lock);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->ended);
    free(c);
    if (rc != 0)
        return err_set(e, rc, "the engine refused a request: %s",
                       err_str(rc));
    return r->failed ? err_set(e, ERR_DEVICE, "%s", r->error) : 0;
}

static void
post(const struct engine_event *ev)
{
    struct caller *c = ev->user;
    struct run *r = c->run;
    uint64_t now = clock_ns();
    pthread_mutex_lock(&r->lock);
    if (!c->started && ev->n_tok > 0) {
        c->started = true;
        if (++r->n_first == r->n) {
            r->t_all_first = now;
            engine_stats(r->en, &r->first);
            r->last = r->first;
        }
    } else if (r->n_first == r->n && r->n_ended == 0 &&
               (ev->finish == ENGINE_RUNNING || r->n == 1)) {
        r->tokens += ev->n_tok;
        r->t_first_end = now;
        engine_stats(r->en, &r->last);
    }
    if (ev->finish != ENGINE_RUNNING) {
        r->n_ended++;
        if (ev->finish == ENGINE_ERROR) {
            r->failed = true;
            snprintf(r->error, sizeof r->error, "%s",
                     ev->error ? ev->error : "out of memory");
        }
        pthread_cond_signal(&r->ended);
    }
    pthread_mutex_unlock(&r->lock);
    free(ev->error);
}
