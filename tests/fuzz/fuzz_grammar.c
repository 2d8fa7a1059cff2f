/*
 * Seeded mutations of schemas, patterns and rules: each is compiled or refused
 * with a text within its budget, and what is compiled gives masks that agree
 * with what is accepted.
 *
 * usage: fuzz_grammar [rounds [seed]]
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "grammar/grammar.h"
#include "tests/fuzz/mutate.h"

static const char *const word[] = {
    "\"type\":", "\"string\"", "\"integer\"", "\"object\"", "\"array\"",
    "\"anyOf\":[", "\"oneOf\":[", "\"allOf\":[", "\"not\":", "{", "}", "[",
    "]", "\"$ref\":\"#\"", "\"$ref\":\"#/properties/a\"", "\"minLength\":3,",
    "\"maxItems\":2,", "\"minItems\":1e9,", "\"pattern\":\"^a|b$\",",
    "\"required\":[\"a\"],", "\"enum\":[1,\"a\",null],", "null", "true",
    "\"multipleOf\":0.3,", "\"minimum\":-1e30,", "\"uniqueItems\":true,",
    "(", ")", "*", "+", "?", "{2,3}", "{0,9999}", "|", "\\\\d", "\\\\p{L}",
    "[^", "::=", "root", ":", "\"", "\n", "start", "%ignore ", "A", "~3",
    "<[1]>", "\xc3\xa9", NULL
};

static const struct {
    enum grammar_kind kind;
    const char *text;
} seeds[] = {
    {GRAMMAR_SCHEMA, "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":"
     "\"array\",\"items\":{\"$ref\":\"#\"},\"maxItems\":3},\"b\":{\"type\":"
     "\"string\",\"pattern\":\"^[a-z]{2,9}$\",\"maxLength\":5}},"
     "\"required\":[\"b\"],\"additionalProperties\":false}"},
    {GRAMMAR_SCHEMA, "{\"oneOf\":[{\"type\":\"number\",\"minimum\":-3.5,"
     "\"multipleOf\":0.25},{\"enum\":[\"x\",{\"k\":[1]},null]},{\"not\":"
     "{\"type\":[\"number\",\"array\",\"object\",\"null\"]}}]}"},
    {GRAMMAR_SCHEMA, "{\"type\":\"object\",\"patternProperties\":{\"^a\":"
     "{\"type\":\"integer\"}},\"propertyNames\":{\"maxLength\":4},"
     "\"minProperties\":1,\"maxProperties\":3,\"if\":{\"required\":[\"ab\"]},"
     "\"then\":{\"properties\":{\"ab\":{\"minimum\":3}}}}"},
    {GRAMMAR_REGEX, "^(a|b[^c-e]+)*\\d{2,5}(?:x|y$)?[\\w\\-]$"},
    {GRAMMAR_EBNF, "root ::= item (\",\" item){0,3}\nitem ::= [a-z]+ | "
     "\"(\" root \")\" # one\n"},
    {GRAMMAR_EBNF, "start: sum\nsum: A | sum \"+\" A\nA: /[0-9]+/i | \"x\"~2"
     "\n%ignore \" \"\n%import common.WS\n"},
    {GRAMMAR_CHOICE, "[\"a\", \"ab\", \"\xc3\xa9\"]"},
};

#define N_SEEDS (sizeof seeds / sizeof *seeds)

/* A few random steps; every id tried must be what the mask says. */
static int
use(struct mutate *m, struct grammar *g, uint32_t *mask, int n_vocab)
{
    struct grammar_matcher *x;
    int rc = grammar_matcher_create(g, &x);

    for (int i = 0; rc == 0 && i < 12; i++) {
        if (grammar_mask(x, mask) != 0)
            break; /* its budget is gone: the request fails */
        for (int k = 0; rc == 0 && k < 40; k++) {
            int32_t id = (int32_t)mutate_draw(m, (uint32_t)n_vocab);
            int got = grammar_accept(x, id);
            bool set = mask[id >> 5] >> (id & 31) & 1;
            if (got == 0 && set)
                break;
            if ((got == 0) != set && got != ERR_LIMIT)
                rc = -1;
        }
    }
    grammar_matcher_free(x);
    return rc;
}

static int
round_of(struct mutate *m, struct grammar_vocab *v, uint32_t *mask,
         int n_vocab, struct buf *b, long *compiled)
{
    size_t i = mutate_draw(m, N_SEEDS);
    struct grammar_spec s = {.has_body = true, .kind = seeds[i].kind};
    struct grammar *g = NULL;
    struct err e = {0};

    mutate_text(m, seeds[i].text, strlen(seeds[i].text), b);
    s.text = (struct str){b->data, b->len};
    int rc = grammar_compile(v, &s, &g, &e);
    if (rc != 0)
        return e.text[0] == '\0' ? -1 : 0;
    ++*compiled;
    rc = use(m, g, mask, n_vocab);
    grammar_unref(g);
    return rc;
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 3000, compiled = 0;
    struct mutate m = {argc > 2 ? strtoull(argv[2], NULL, 10) : 1, word};
    const char *top = getenv("SIROCCO_SRCDIR");
    struct grammar_vocab *v;
    struct tok *t;
    struct err e = {0};
    struct buf b = {0};
    char path[1024];

    snprintf(path, sizeof path, "%s/contrib/demo-model/model/tekken.json",
             top ? top : ".");
    if (tok_load(path, &t, &e) != 0 || grammar_vocab_create(t, &v, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    int n_vocab = tok_info(t)->n_vocab;
    uint32_t *mask = calloc((size_t)n_vocab / 32 + 1, sizeof *mask);
    for (long i = 0; i < rounds; i++) {
        if (round_of(&m, v, mask, n_vocab, &b, &compiled) != 0) {
            fprintf(stderr, "failed at round %ld: %.*s\n", i, (int)b.len,
                    b.data);
            return 1;
        }
    }
    printf("%ld of %ld compiled\n", compiled, rounds);
    free(mask);
    buf_free(&b);
    grammar_vocab_free(v);
    tok_free(t);
    return compiled > 0 ? 0 : 1;
}
