/*
 * Grammars alone, for the tests that sample and check their outputs:
 *
 *   grammar_probe TEKKEN       jobs in, results out, one JSON object a line
 *
 * A job: {"kind": "schema" | "object" | "regex" | "ebnf" | "choice" | "none",
 * "text": .., "samples": N, "seed": N, "max_tokens": N, "accept": [text..],
 * "oracle": N, "costs": true, and the flags and tools of struct grammar_spec}. A result has
 * the outputs (null: not finished), whether each text is accepted, what
 * compiling and masks cost in microseconds of CPU time (with costs: every
 * mask); or an
 * error. With oracle, at N
 * random places every bit of the mask is compared with grammar_accept.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "grammar/grammar.h"
#include "json/json.h"

#define TIMES_MAX 200000

struct probe {
    struct tok *tok;
    struct grammar_vocab *vocab;
    int n_vocab, eos;
    uint32_t *mask;
    int32_t *allowed;
    uint64_t random;
    double *cost;        /* of masks, microseconds */
    size_t n_costs;
    long oracle;
};

static uint32_t
draw(struct probe *p, uint32_t below)
{
    p->random = p->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(p->random >> 33) % below;
}

static bool
is_set(const struct probe *p, int32_t id)
{
    return p->mask[id >> 5] >> (id & 31) & 1;
}

/* Nanoseconds of this thread on a processor: on a busy machine the clock would
 * tell how long others had it. */
static uint64_t
cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int
timed_mask(struct probe *p, struct grammar_matcher *m)
{
    uint64_t from = cpu_ns();
    int rc = grammar_mask(m, p->mask);
    if (p->n_costs < TIMES_MAX)
        p->cost[p->n_costs++] = (double)(cpu_ns() - from) / 1e3;
    return rc;
}

/* Every bit of the mask is what grammar_accept says. */
static int
compare(struct probe *p, struct grammar_matcher *m)
{
    for (int32_t id = 0; id < p->n_vocab; id++) {
        int rc = grammar_accept(m, id);
        if (rc == 0)
            grammar_rollback(m, 1);
        if ((rc == 0) != is_set(p, id)) {
            fprintf(stderr, "id %d: mask %d, accept %s\n", (int)id,
                    is_set(p, id), err_str(rc));
            return ERR_MISMATCH;
        }
    }
    return 0;
}

/* Some allowed id; when closing, one that is likely to end things. */
static int32_t
choose(struct probe *p, bool closing)
{
    static const char ends[] = "\"}]),0123456789";
    size_t n = 0, good = 0;

    if (closing && is_set(p, p->eos))
        return p->eos;
    for (int w = 0; w <= (p->n_vocab - 1) / 32; w++)
        for (uint32_t x = p->mask[w]; x; x &= x - 1)
            p->allowed[n++] = w * 32 + __builtin_ctz(x);
    if (n == 0)
        return -1;
    /* A few control tokens would drown among the ordinary ones. */
    if (draw(p, 8) == 0 && p->allowed[0] < tok_info(p->tok)->n_special)
        return p->allowed[0];
    for (size_t i = 0; closing && i < n; i++) {
        struct str s = tok_bytes(p->tok, p->allowed[i]);
        if (s.n == 1 && strchr(ends, s.p[0]))
            p->allowed[good++] = p->allowed[i];
    }
    return p->allowed[draw(p, (uint32_t)(closing && good ? good : n))];
}

static int
sample(struct probe *p, struct grammar *g, long max_tokens, struct buf *out)
{
    struct grammar_matcher *m;
    struct ids ids = {0};
    struct buf text = {0};
    bool done = false;
    int rc = grammar_matcher_create(g, &m);

    if (rc != 0)
        return rc;
    for (long i = 0; rc == 0 && !done && i < max_tokens; i++) {
        rc = timed_mask(p, m);
        if (rc == 0 && p->oracle > 0 && draw(p, 4) == 0) {
            p->oracle--;
            rc = compare(p, m);
        }
        if (rc != 0)
            break;
        int32_t id = choose(p, i > max_tokens / 4);
        done = id == p->eos;
        rc = grammar_accept(m, id);
        if (!done)
            ids_push(&ids, id);
    }
    grammar_matcher_free(m);
    if (rc == 0)
        rc = tok_decode(p->tok, ids.id, ids.n, TOK_KEEP, &text);
    if (rc == 0)
        rc = done ? json_put_string(out, text.data, text.len)
                  : buf_puts(out, "null");
    ids_free(&ids);
    buf_free(&text);
    return rc;
}

/* Whether text is a whole output: byte by byte, and in tokens; 2 when the two
 * differ. */
static int
accepts(struct probe *p, struct grammar *g, struct str text)
{
    int verdict[2];
    bool only;

    for (int way = 0; way < 2; way++) {
        struct grammar_matcher *m;
        struct ids ids = {0};
        int rc = grammar_matcher_create(g, &m);
        for (size_t i = 0; way == 0 && i < text.n; i++)
            ids_push(&ids, tok_lookup(p->tok, text.p + i, 1));
        if (way == 1)
            tok_encode(p->tok, text.p, text.n, &ids);
        for (size_t i = 0; rc == 0 && i < ids.n; i++)
            rc = grammar_accept(m, ids.id[i]);
        verdict[way] = rc == 0 && grammar_can_end(m, &only);
        grammar_matcher_free(m);
        ids_free(&ids);
    }
    return verdict[0] == verdict[1] ? verdict[0] : 2;
}

static int
by_size(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return a < b ? -1 : a > b;
}

static bool
flag(struct json_object *job, const char *key)
{
    return json_object_get_boolean(json_get(job, key));
}

static void
put_costs(struct probe *p, bool each, struct buf *out)
{
    if (p->n_costs == 0)
        return;
    for (size_t i = 0; each && i < p->n_costs; i++)
        buf_printf(out, "%s%.2f", i ? ", " : ", \"each_us\": [", p->cost[i]);
    if (each)
        buf_puts(out, "]");
    qsort(p->cost, p->n_costs, sizeof *p->cost, by_size);
    buf_printf(out, ", \"mask_us\": {\"n\": %zu, \"p50\": %.2f, \"p99\": "
               "%.2f, \"max\": %.2f}", p->n_costs, p->cost[p->n_costs / 2],
               p->cost[p->n_costs * 99 / 100], p->cost[p->n_costs - 1]);
}

static long
number(struct json_object *job, const char *key, long otherwise)
{
    struct json_object *x = json_get(job, key);
    return x ? (long)json_object_get_int64(x) : otherwise;
}

static void
read_spec(struct json_object *job, struct grammar_spec *s,
          struct grammar_tool *tool, size_t max_tools)
{
    static const char *const kinds[] = {"schema", "object", "regex", "ebnf",
                                        "choice"};
    struct str kind = json_str(json_get(job, "kind"));
    struct json_object *tools = json_get(job, "tools");

    *s = (struct grammar_spec){.tool = tool, .text = json_str(
        json_get(job, "text"))};
    for (int i = 0; i < 5; i++) {
        if (kind.p && str_eq(kind, str_from(kinds[i]))) {
            s->has_body = true;
            s->kind = (enum grammar_kind)i;
        }
    }
    s->content = flag(job, "content");
    s->calls = flag(job, "calls");
    s->must_call = flag(job, "must_call");
    s->one_call = flag(job, "one_call");
    s->any_name = flag(job, "any_name");
    s->thought = flag(job, "thought");
    s->in_thought = flag(job, "in_thought");
    s->compact = flag(job, "compact");
    if (!json_object_is_type(tools, json_type_object))
        return;
    json_object_object_foreach(tools, name, schema) {
        if (s->n_tool == max_tools)
            break;
        tool[s->n_tool].name = str_from(name);
        tool[s->n_tool++].schema = json_str(schema);
    }
}

static int
use(struct probe *p, struct grammar *g, struct json_object *job,
    struct buf *out)
{
    struct json_object *texts = json_get(job, "accept");
    int rc = 0;

    p->random = (uint64_t)number(job, "seed", 1) * 7919;
    p->oracle = number(job, "oracle", 0);
    p->n_costs = 0;
    buf_puts(out, ", \"outputs\": [");
    for (long i = 0; rc == 0 && i < number(job, "samples", 0); i++) {
        if (i)
            buf_puts(out, ", ");
        rc = sample(p, g, number(job, "max_tokens", 200), out);
    }
    buf_puts(out, "], \"accepted\": [");
    for (size_t i = 0; texts && i < json_object_array_length(texts); i++)
        buf_printf(out, "%s%d", i ? ", " : "",
                   accepts(p, g, json_str(json_object_array_get_idx(texts,
                                                                    i))));
    buf_puts(out, "]");
    put_costs(p, flag(job, "costs"), out);
    return rc;
}

static int
run(struct probe *p, struct json_object *job, struct buf *out)
{
    struct grammar_tool tool[16];
    struct grammar_spec s;
    struct grammar *g = NULL;
    struct err e = {0};

    read_spec(job, &s, tool, 16);
    uint64_t from = cpu_ns();
    int rc = grammar_compile(p->vocab, &s, &g, &e);
    double us = (double)(cpu_ns() - from) / 1e3;
    buf_printf(out, "{\"compile_us\": %.1f", us);
    if (rc != 0) {
        buf_printf(out, ", \"code\": \"%s\", \"error\": ", err_str(rc));
        json_put_string(out, e.text, strlen(e.text));
        rc = 0;
    } else {
        rc = use(p, g, job, out);
        if (rc != 0)
            buf_printf(out, ", \"failed\": \"%s\"", err_str(rc));
        grammar_unref(g);
    }
    return buf_puts(out, "}");
}

int
main(int argc, char **argv)
{
    struct probe p = {0};
    struct err e = {0};
    struct buf out = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    if (argc != 2 || tok_load(argv[1], &p.tok, &e) != 0 ||
        grammar_vocab_create(p.tok, &p.vocab, &e) != 0) {
        fprintf(stderr, "usage: grammar_probe TEKKEN\n%s\n", e.text);
        return 2;
    }
    p.n_vocab = tok_info(p.tok)->n_vocab;
    p.eos = tok_special(p.tok, "</s>");
    p.mask = calloc((size_t)p.n_vocab / 32 + 1, sizeof *p.mask);
    p.allowed = calloc((size_t)p.n_vocab + 1, sizeof *p.allowed);
    p.cost = calloc(TIMES_MAX, sizeof *p.cost);
    while ((n = getline(&line, &cap, stdin)) > 0) {
        struct json_object *job = NULL;
        out.len = 0;
        if (json_parse(line, (size_t)n, 100, 0, &job, &e) != 0) {
            fprintf(stderr, "%s\n", e.text);
            return 1;
        }
        run(&p, job, &out);
        printf("%.*s\n", (int)out.len, out.data);
        fflush(stdout);
        json_object_put(job);
    }
    free(line);
    free(p.mask);
    free(p.allowed);
    free(p.cost);
    buf_free(&out);
    grammar_vocab_free(p.vocab);
    tok_free(p.tok);
    return 0;
}
