/*
 * siroccoctl bench engine: a back end under the engine, without a server.
 *
 * Decode: for each batch size that many requests with distinct random prompts
 * run to --tokens; the rate is counted from the moment all have their first
 * token until the step before the first one ends, so that only full batches
 * are in it. Prefill: one
 * request of each length, time to its first token. Every point is run --runs
 * times; medians are shown, of the rate the lowest and highest too, and for
 * decoding the mean pause of the device between two steps, when it has a clock.
 * The prefix cache is off.
 *
 * Where the back end tells how many experts its steps took, the bytes that the
 * steps needed follow from them, and from both the least time on a device of
 * --roof (bench_roof.h).
 */
#include "config.h"

#include "ctl/bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ctl/bench_roof.h"
#include "ctl/command.h"
#include "ctl/session.h"
#include "engine/engine.h"

#define POINTS_MAX 32
#define ROOF_CUDA "4800,790,600" /* an H200 */

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
    uint64_t tokens, keys;    /* between those two */
    struct engine_stats before, first, last; /* at the start, at those two */
    bool failed;
    char error[256];
};

struct caller {
    struct run *run;
    uint32_t length;          /* tokens of prompt and output so far */
    bool started;
};

/* What the runs of a point gave, one sample a run; empty = not known. */
struct figures {
    struct samples rate, pause; /* tokens/s, us */
    struct samples experts;     /* a layer and step */
    struct samples bytes, operations, roof; /* a second; tokens/s */
};

struct engine_bench {
    struct session s;
    struct engine *en;
    uint32_t n_vocab, prompt, tokens, step;
    long long runs;
    struct model_cost cost;   /* with a model */
    struct roof roof;
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
static int point(struct engine_bench *b, bool decode, uint32_t x,
                 struct err *e);
static int add_figures(struct engine_bench *b, bool decode, uint32_t x,
                       const struct run *r, double s, struct figures *f);
static void report(const struct engine_bench *b, bool decode, uint32_t x,
                   struct figures *f);

int
bench_engine(int argc, char **argv)
{
    const char *batches = "1,2,4,8,16", *prefills = "512,2048";
    const char *prompt = NULL, *tokens = NULL, *runs = NULL, *threads = NULL;
    const char *vocab = NULL, *step = NULL, *roof = NULL;
    struct engine_bench b = {.seed = clock_ns()};
    struct session_options o = {.max_step = 8192};
    struct points batch = {0}, prefill = {0};
    struct err e = {0};
    const struct option_row rows[] = {
        {"model", &o.model}, {"backend", &o.backend},
        {"batches", &batches}, {"prefills", &prefills}, {"prompt", &prompt},
        {"tokens", &tokens}, {"runs", &runs}, {"threads", &threads},
        {"step", &step}, {"vocab", &vocab}, {"roof", &roof},
        {"dummy", NULL, &o.dummy},
        {"json", NULL, &b.json}, {NULL}};
    long long n_prompt = 128, n_tokens = 64, n_threads = 0, n_step = 512;
    long long n_vocab = BENCH_VOCAB;
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
    if (roof == NULL && o.backend && strncmp(o.backend, "cuda", 4) == 0)
        roof = ROOF_CUDA;
    if (roof && roof_parse(roof, &b.roof) != 0) {
        command_fail("bench", "--roof: '%s' is not GB/s[,TFLOP/s[,TFLOP/s]]",
                     roof);
        return EXIT_USAGE;
    }
    b.prompt = (uint32_t)n_prompt;
    b.tokens = (uint32_t)n_tokens;
    b.n_vocab = (uint32_t)n_vocab;
    o.threads = (int)n_threads;
    o.n_vocab = b.n_vocab;
    o.max_seqs = largest(&batch);
    o.max_step = (uint32_t)n_step > o.max_seqs ? (uint32_t)n_step
                                               : o.max_seqs;
    b.step = o.max_step;
    o.max_context = b.prompt + b.tokens;
    if (largest(&prefill) >= o.max_context)
        o.max_context = largest(&prefill) + 1;
    int rc = start(&b, &o, &e);
    for (size_t i = 0; rc == 0 && i < batch.n; i++)
        rc = point(&b, true, batch.x[i], &e);
    for (size_t i = 0; rc == 0 && i < prefill.n; i++)
        rc = point(&b, false, prefill.x[i], &e);
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
    if (b->s.model != NULL) {
        b->n_vocab = (uint32_t)model_params(b->s.model)->text.vocab;
        cost_of(b->s.model, (double)b->s.plan.bytes_per_block / KV_BLOCK,
                &b->cost);
    }
    struct engine_options eo = {
        .max_running = o->max_seqs, .max_queue = o->max_seqs,
        .step_tokens = o->max_step, .max_context = o->max_context,
        .n_blocks = b->s.plan.n_blocks, .overlap = true,
        .n_vocab = b->n_vocab, .max_out = 1};
    return engine_create(&eo, b->s.backend, &b->en, e);
}

/* Runs a point --runs times and prints its line. */
static int
point(struct engine_bench *b, bool decode, uint32_t x, struct err *e)
{
    struct figures f = {0};
    int rc = 0;
    for (long long i = 0; rc == 0 && i < b->runs; i++) {
        struct run r = {.en = b->en};
        uint64_t from = clock_ns();
        rc = decode ? one_run(b, x, b->prompt, b->tokens, &r, e)
                    : one_run(b, 1, x, 1, &r, e);
        double s = decode ? (double)(r.t_first_end - r.t_all_first) * 1e-9
                          : (double)(r.t_all_first - from) * 1e-9;
        if (rc == 0 && add_figures(b, decode, x, &r, s, &f) != 0)
            rc = err_set(e, ERR_NOMEM, "out of memory");
    }
    if (rc == 0)
        report(b, decode, x, &f);
    samples_free(&f.rate);
    samples_free(&f.pause);
    samples_free(&f.experts);
    samples_free(&f.bytes);
    samples_free(&f.operations);
    samples_free(&f.roof);
    return rc;
}

/* The steps of a run of full batches, but for the experts. */
static struct work_done
decode_work(uint32_t n, const struct run *r)
{
    double tokens = (double)r->tokens, keys = (double)r->keys;
    return (struct work_done){
        .steps = tokens / n, .head_steps = tokens / n, .tokens = tokens,
        .logits = tokens, .keys = keys, .pairs = keys};
}

/* The steps of a prompt of n tokens, likewise. */
static struct work_done
prefill_work(const struct engine_bench *b, uint32_t n)
{
    struct work_done w = {.head_steps = 1, .logits = 1, .tokens = n,
                          .pairs = .5 * n * (n + 1.0)};
    for (uint64_t at = 0; at < n; w.steps++) {
        at += b->step;
        w.keys += at < n ? (double)at : n;
    }
    return w;
}

/* What a run of s seconds gave. 0 or ERR_NOMEM. */
static int
add_figures(struct engine_bench *b, bool decode, uint32_t x,
            const struct run *r, double s, struct figures *f)
{
    const struct engine_stats *from = decode ? &r->first : &r->before;
    const struct engine_stats *to = decode ? &r->last : &r->first;
    double steps = (double)(to->expert_steps - from->expert_steps);
    double pauses = (double)(to->pauses - from->pauses);
    struct work_done w = decode ? decode_work(x, r) : prefill_work(b, x);
    int rc = samples_add(&f->rate, s > 0 ? w.tokens / s : 0);
    if (rc == 0 && decode && pauses > 0)
        rc = samples_add(&f->pause, (double)(to->pause_ns - from->pause_ns) *
                                        1e-3 / pauses);
    if (b->s.model == NULL || s <= 0 || (b->cost.moe_layers > 0 && steps == 0))
        return rc;
    if (steps > 0) {
        double mean = (double)(to->experts - from->experts) / steps;
        w.experts = mean * w.steps;
        rc = rc ? rc : samples_add(&f->experts, mean / b->cost.moe_layers);
    }
    rc = rc ? rc : samples_add(&f->bytes, cost_bytes(&b->cost, &w) / s);
    rc = rc ? rc : samples_add(&f->operations,
                               cost_operations(&b->cost, &w) / s);
    if (rc == 0 && b->roof.bytes > 0)
        rc = samples_add(&f->roof,
                         w.tokens / roof_seconds(&b->roof, &b->cost, &w));
    return rc;
}

static void
report_json(const struct engine_bench *b, bool decode, uint32_t x,
            struct figures *f)
{
    const struct samples_range rate = samples_range(&f->rate);
    printf("{\"what\": \"%s\", \"%s\": %u, \"runs\": %lld, "
           "\"tokens_s\": %.2f, \"lowest\": %.2f, \"highest\": %.2f, "
           "\"spread\": %.4f", decode ? "decode" : "prefill",
           decode ? "batch" : "tokens", x, b->runs, rate.mid, rate.low,
           rate.high, rate.spread);
    if (f->pause.n > 0)
        printf(", \"pause_us\": %.2f", samples_percentile(&f->pause, 50));
    if (f->experts.n > 0)
        printf(", \"experts_a_layer\": %.2f",
               samples_percentile(&f->experts, 50));
    if (f->bytes.n > 0)
        printf(", \"gb_s\": %.4f, \"tflop_s\": %.6f",
               samples_percentile(&f->bytes, 50) * 1e-9,
               samples_percentile(&f->operations, 50) * 1e-12);
    if (f->roof.n > 0)
        printf(", \"roof_tokens_s\": %.2f, \"of_roof\": %.4f",
               samples_percentile(&f->roof, 50),
               rate.mid / samples_percentile(&f->roof, 50));
    printf("}\n");
}

static void
report(const struct engine_bench *b, bool decode, uint32_t x,
       struct figures *f)
{
    const struct samples_range rate = samples_range(&f->rate);
    const double roof = samples_percentile(&f->roof, 50);
    if (b->json) {
        report_json(b, decode, x, f);
        fflush(stdout);
        return;
    }
    printf("%-8s %s %-6u  %10.1f tokens/s  (%.1f to %.1f in %lld runs, "
           "spread %.1f %%)", decode ? "decode" : "prefill",
           decode ? "batch" : "prompt", x, rate.mid, rate.low, rate.high,
           b->runs, 100 * rate.spread);
    if (f->pause.n > 0)
        printf("  pause %.2f us", samples_percentile(&f->pause, 50));
    printf("\n");
    if (f->bytes.n > 0)
        printf("%24s %.4g GB/s, %.4g TFLOP/s", "",
               samples_percentile(&f->bytes, 50) * 1e-9,
               samples_percentile(&f->operations, 50) * 1e-12);
    if (f->experts.n > 0)
        printf(", %.2f experts a layer and step",
               samples_percentile(&f->experts, 50));
    if (f->roof.n > 0)
        printf(": %.1f %% of a roof of %.1f tokens/s", 100 * rate.mid / roof,
               roof);
    if (f->bytes.n > 0)
        printf("\n");
    fflush(stdout);
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
    engine_stats(b->en, &r->before);
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
        c[sent].length = n_prompt;
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
        r->keys += c->length;
        r->t_first_end = now;
        engine_stats(r->en, &r->last);
    }
    c->length += ev->n_tok;
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
