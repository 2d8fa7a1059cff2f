#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "grammar/grammar.h"
#include "grammar/lang/pattern.h"
#include "grammar/rx/rx.h"

static struct tok *tok;
static struct grammar_vocab *vocab;
static uint32_t *mask;
static int n_vocab;

/* The vocabulary of the demo model; some 1,000 tokens. */
static int
set_up(void **state)
{
    const char *top = getenv("SIROCCO_SRCDIR");
    struct err e = {0};
    char path[1024];
    snprintf(path, sizeof path, "%s/contrib/demo-model/model/tekken.json",
             top ? top : ".");
    if (tok_load(path, &tok, &e) != 0 ||
        grammar_vocab_create(tok, &vocab, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return -1;
    }
    n_vocab = tok_info(tok)->n_vocab;
    mask = calloc((size_t)n_vocab / 32 + 1, sizeof *mask);
    return 0;
}

static int
tear_down(void **state)
{
    free(mask);
    grammar_vocab_free(vocab);
    tok_free(tok);
    return 0;
}

/* --- expressions --------------------------------------------------------- */

struct lab {
    struct budget budget;
    struct rx_pool p;
};

static void
lab_open(struct lab *l)
{
    l->budget = (struct budget){.max_bytes = 64u << 20,
                                .max_work = UINT64_MAX};
    assert_true(rx_pool_init(&l->p, &l->budget));
}

static rx_id
pattern(struct lab *l, const char *text)
{
    rx_id r = RX_NONE;
    struct err e = {0};
    if (pattern_compile(&l->p, str_from(text), 0, &r, &e) != 0)
        fail_msg("%s: %s", text, e.text);
    return r;
}

static bool
matches(struct lab *l, rx_id r, const char *text)
{
    return rx_matches(&l->p, r, text, strlen(text));
}

static void
test_intersection_and_complement(void **state)
{
    struct lab l;
    lab_open(&l);
    rx_id word = pattern(&l, "[a-z]+"), four = pattern(&l, ".{4}");
    rx_id both = rx_and(&l.p, word, four);
    assert_true(matches(&l, both, "abcd"));
    assert_false(matches(&l, both, "abc"));
    assert_false(matches(&l, both, "ab1d"));
    rx_id other = rx_and(&l.p, word, rx_text_not(&l.p, pattern(&l, "end|a.*")));
    assert_true(matches(&l, other, "ends"));
    assert_false(matches(&l, other, "end"));
    assert_false(matches(&l, other, "axe"));
    /* Equal languages made in two ways are the same state where the normal
     * form sees it. */
    assert_int_equal(rx_or(&l.p, word, four), rx_or(&l.p, four, word));
    assert_int_equal(rx_not(&l.p, rx_not(&l.p, word)), word);
    rx_pool_free(&l.p);
}

static void
test_emptiness_is_found(void **state)
{
    struct lab l;
    lab_open(&l);
    rx_id five = pattern(&l, "[a-z]{5}"), three = pattern(&l, ".{0,3}");
    assert_false(rx_live(&l.p, rx_and(&l.p, five, three)));
    assert_true(rx_live(&l.p, rx_and(&l.p, five, pattern(&l, ".{0,5}"))));
    rx_id even = pattern(&l, "(aa)*"), odd = pattern(&l, "a(aa)*");
    assert_false(rx_live(&l.p, rx_and(&l.p, even, odd)));
    rx_pool_free(&l.p);
}

static void
test_json_strings_are_spelt_one_way(void **state)
{
    struct lab l;
    lab_open(&l);
    rx_id r = rx_json_string(&l.p, l.p.all);
    assert_true(matches(&l, r, "\"\""));
    assert_true(matches(&l, r, "\"\\n\\\"\\\\\\u0001\\u001F\xc3\xa9\""));
    assert_false(matches(&l, r, "\"\\u0041\""));
    assert_false(matches(&l, r, "\"\\u000a\""));
    assert_false(matches(&l, r, "\"\\/\""));
    assert_false(matches(&l, r, "\"\xed\xa0\x80\""));
    assert_false(matches(&l, r, "\"\xc0\xaf\""));
    assert_false(matches(&l, r, "\"a"));
    rx_id two = rx_json_string(&l.p, rx_repeat(&l.p, l.p.any_char, 2, 2));
    assert_true(matches(&l, two, "\"\\n\xf0\x9f\x8e\x89\""));
    assert_false(matches(&l, two, "\"\\n\""));
    rx_pool_free(&l.p);
}

static void
test_counters_even_out(void **state)
{
    struct lab l;
    lab_open(&l);
    rx_id r = rx_repeat(&l.p, l.p.any_char, 0, 5000), s = r;
    for (int i = 0; i < 1000; i++)
        s = rx_step(&l.p, s, 'x');
    assert_int_not_equal(r, s);
    assert_int_equal(rx_clip(&l.p, r, 100), rx_clip(&l.p, s, 100));
    for (int i = 0; i < 3950; i++)
        s = rx_step(&l.p, s, 'x');
    assert_int_not_equal(rx_clip(&l.p, r, 100), rx_clip(&l.p, s, 100));
    for (int i = 0; i < 50; i++)
        s = rx_step(&l.p, s, 'x');
    assert_int_equal(RX_EMPTY, s);
    rx_pool_free(&l.p);
}

static void
test_bad_patterns_are_refused(void **state)
{
    static const struct {
        const char *text;
        int code;
    } row[] = {
        {"(a", ERR_FORMAT}, {"a)", ERR_FORMAT}, {"[a", ERR_FORMAT},
        {"*a", ERR_FORMAT}, {"a**", ERR_FORMAT}, {"a{3,2}", ERR_FORMAT},
        {"\\", ERR_FORMAT}, {"[z-a]", ERR_FORMAT}, {"\\u12", ERR_FORMAT},
        {"\\ud800", ERR_FORMAT}, {"(?=a)", ERR_UNSUPPORTED},
        {"(?<!a)", ERR_UNSUPPORTED}, {"(?i)a", ERR_UNSUPPORTED},
        {"\\1", ERR_UNSUPPORTED}, {"a++", ERR_UNSUPPORTED},
        {"\\bx", ERR_UNSUPPORTED}, {"\\p{Nope}", ERR_UNSUPPORTED},
        {"a{10001}", ERR_LIMIT}, {"a\x01", ERR_FORMAT},
    };
    struct lab l;
    lab_open(&l);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err e = {0};
        rx_id r;
        int rc = pattern_compile(&l.p, str_from(row[i].text), 0, &r, &e);
        if (rc != row[i].code)
            fail_msg("%s: %d %s", row[i].text, rc, e.text);
        assert_true(e.text[0] != 0);
    }
    assert_true(matches(&l, pattern(&l, "\\p{Lu}\\p{L}*"), "\xc3\x89t"));
    assert_false(matches(&l, pattern(&l, "\\P{L}"), "x"));
    assert_true(matches(&l, pattern(&l, "[\\d\\-x]+a{,2}"), "3-xa{,2}"));
    assert_true(matches(&l, pattern(&l, "\\x41\\u{1F389}\\cA\\0?"),
                        "A\xf0\x9f\x8e\x89\x01"));
    rx_pool_free(&l.p);
}

/* --- matchers ------------------------------------------------------------ */

static struct grammar *
compile(enum grammar_kind kind, const char *text)
{
    struct grammar_spec s = {.has_body = true, .kind = kind,
                             .text = str_from(text)};
    struct grammar *g = NULL;
    struct err e = {0};
    if (grammar_compile(vocab, &s, &g, &e) != 0)
        fail_msg("%s: %s", text, e.text);
    return g;
}

static int
accept_text(struct grammar_matcher *m, const char *text)
{
    for (; *text; text++) {
        int rc = grammar_accept(m, tok_lookup(tok, text, 1));
        if (rc != 0)
            return rc;
    }
    return 0;
}

static bool
allowed(int32_t id)
{
    return mask[id >> 5] >> (id & 31) & 1;
}

static int
count_allowed(void)
{
    int n = 0;
    for (int32_t id = 0; id < n_vocab; id++)
        n += allowed(id);
    return n;
}

static void
test_the_end_comes_where_it_may(void **state)
{
    struct grammar *g = compile(GRAMMAR_CHOICE, "[\"12\", \"1234\"]");
    struct grammar_matcher *m;
    bool only = true;
    int eos = tok_special(tok, "</s>");
    assert_int_equal(0, grammar_matcher_create(g, &m));
    assert_false(grammar_can_end(m, &only));
    assert_int_equal(ERR_MISMATCH, grammar_accept(m, eos));
    assert_int_equal(0, accept_text(m, "12"));
    assert_true(grammar_can_end(m, &only));
    assert_false(only);
    assert_int_equal(0, grammar_mask(m, mask));
    assert_true(allowed(eos));
    assert_true(allowed(tok_lookup(tok, "3", 1)));
    assert_int_equal(ERR_MISMATCH, accept_text(m, "4"));
    assert_int_equal(0, accept_text(m, "34"));
    assert_true(grammar_can_end(m, &only));
    assert_true(only);
    assert_int_equal(0, grammar_mask(m, mask));
    assert_int_equal(1, count_allowed());
    assert_int_equal(0, grammar_accept(m, eos));
    grammar_rollback(m, 3);
    assert_true(grammar_can_end(m, &only));
    assert_false(only);
    grammar_matcher_free(m);
    grammar_unref(g);
}

/* AC-33 */
static void
test_control_tokens_are_not_text(void **state)
{
    struct grammar *g = compile(GRAMMAR_REGEX, ".*");
    struct grammar_matcher *m;
    assert_int_equal(0, grammar_matcher_create(g, &m));
    assert_int_equal(0, grammar_mask(m, mask));
    for (int32_t id = 0; id < tok_info(tok)->n_special; id++)
        if (id != tok_special(tok, "</s>"))
            assert_false(allowed(id));
    assert_int_equal(ERR_MISMATCH,
                     grammar_accept(m, tok_special(tok, "[INST]")));
    assert_int_equal(0, accept_text(m, "[INST]"));
    assert_int_equal(ERR_MISMATCH, grammar_accept(m, -1));
    assert_int_equal(ERR_MISMATCH, grammar_accept(m, n_vocab));
    grammar_matcher_free(m);
    grammar_unref(g);
}

/* AC-32: random drafts; what is rolled back leaves no trace. */
static void
test_rollback_is_exact(void **state)
{
    struct grammar *g = compile(GRAMMAR_SCHEMA, "{\"type\":\"array\","
                                "\"items\":{\"type\":\"number\"}}");
    struct grammar_matcher *m, *fresh;
    int32_t path[64];
    size_t words = (size_t)n_vocab / 32 + 1;
    uint32_t *want = calloc(words, sizeof *want);
    size_t n = 0;
    srand(3);
    assert_int_equal(0, grammar_matcher_create(g, &m));
    for (int round = 0; round < 2000; round++) {
        assert_int_equal(0, grammar_mask(m, mask));
        int32_t id = rand() % n_vocab;
        int rc = grammar_accept(m, id);
        assert_int_equal(allowed(id), rc == 0);
        if (rc == 0)
            path[n++] = id;
        if (n == 64 || (n > 0 && rand() % 8 == 0)) {
            size_t back = 1 + (size_t)rand() % n;
            grammar_rollback(m, back);
            n -= back;
        }
        if (round % 100 != 0)
            continue;
        assert_int_equal(0, grammar_matcher_create(g, &fresh));
        for (size_t i = 0; i < n; i++)
            assert_int_equal(0, grammar_accept(fresh, path[i]));
        assert_int_equal(0, grammar_mask(fresh, want));
        assert_int_equal(0, grammar_mask(m, mask));
        assert_memory_equal(want, mask, ((size_t)n_vocab + 31) / 32 * 4);
        grammar_matcher_free(fresh);
    }
    free(want);
    grammar_matcher_free(m);
    grammar_unref(g);
}

static void
test_drafts_cross_from_the_thought_into_the_answer(void **state)
{
    struct grammar_spec s = {.has_body = true, .kind = GRAMMAR_OBJECT,
                             .thought = true};
    struct grammar *g;
    struct grammar_matcher *m;
    struct err e = {0};
    int think = tok_special(tok, "[THINK]");
    int end = tok_special(tok, "[/THINK]"), eos = tok_special(tok, "</s>");
    assert_int_equal(0, grammar_compile(vocab, &s, &g, &e));
    assert_int_equal(0, grammar_matcher_create(g, &m));
    assert_int_equal(0, grammar_mask(m, mask));
    assert_true(allowed(think) && allowed(tok_lookup(tok, "{", 1)));
    assert_false(allowed(end) || allowed(eos) ||
                 allowed(tok_lookup(tok, "a", 1)));
    assert_int_equal(0, grammar_accept(m, think));
    assert_int_equal(ERR_MISMATCH, grammar_accept(m, end));
    assert_int_equal(0, accept_text(m, "hm"));
    assert_int_equal(0, grammar_mask(m, mask));
    assert_true(allowed(end));
    assert_false(allowed(eos) || allowed(think));
    assert_int_equal(0, grammar_accept(m, end));
    assert_int_equal(ERR_MISMATCH, grammar_accept(m, think));
    assert_int_equal(0, accept_text(m, "{\"b\":1}"));
    grammar_rollback(m, 8);
    assert_int_equal(0, grammar_accept(m, end));
    grammar_matcher_free(m);
    grammar_unref(g);
}

static void
test_compiled_grammars_are_shared(void **state)
{
    struct grammar *a = compile(GRAMMAR_SCHEMA, "{\"minimum\": 3}");
    struct grammar *b = compile(GRAMMAR_SCHEMA, "{\"minimum\": 3}");
    struct grammar *c = compile(GRAMMAR_SCHEMA, "{\"minimum\": 4}");
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c);
    grammar_unref(a);
    grammar_unref(b);
    grammar_unref(c);
    /* Refusals say the same again. */
    struct grammar_spec s = {.has_body = true, .kind = GRAMMAR_SCHEMA,
                             .text = STR("{\"type\": \"x\"}")};
    struct err e1 = {0}, e2 = {0};
    assert_int_equal(ERR_FORMAT, grammar_compile(vocab, &s, &a, &e1));
    assert_int_equal(ERR_FORMAT, grammar_compile(vocab, &s, &a, &e2));
    assert_string_equal(e1.text, e2.text);
    /* More than the cache holds. */
    for (int i = 0; i < 300; i++) {
        char text[32];
        snprintf(text, sizeof text, "[\"%d\"]", i);
        grammar_unref(compile(GRAMMAR_CHOICE, text));
    }
}

static void *
sample_thread(void *arg)
{
    struct grammar *g = compile(GRAMMAR_OBJECT, "");
    struct grammar_matcher *m;
    uint32_t *own = calloc((size_t)n_vocab / 32 + 1, sizeof *own);
    unsigned seed = (unsigned)(uintptr_t)arg;
    bool ok = grammar_matcher_create(g, &m) == 0;
    for (int i = 0; ok && i < 300; i++) {
        bool only;
        ok = grammar_mask(m, own) == 0;
        int32_t id = rand_r(&seed) % n_vocab;
        int rc = grammar_accept(m, id);
        ok = ok && (rc == 0) == (own[id >> 5] >> (id & 31) & 1);
        if (grammar_can_end(m, &only) && only)
            grammar_rollback(m, 1000);
    }
    free(own);
    grammar_matcher_free(m);
    grammar_unref(g);
    return ok ? arg : NULL;
}

static void
test_threads_share_a_grammar(void **state)
{
    pthread_t t[8];
    for (uintptr_t i = 0; i < 8; i++)
        assert_int_equal(0, pthread_create(&t[i], NULL, sample_thread,
                                           (void *)(i + 1)));
    for (uintptr_t i = 0; i < 8; i++) {
        void *out;
        pthread_join(t[i], &out);
        assert_non_null(out);
    }
}

static void
test_long_arrays_stay_small(void **state)
{
    struct grammar *g = compile(GRAMMAR_SCHEMA, "{\"type\":\"array\","
                                "\"items\":{\"type\":\"object\"}}");
    struct grammar_matcher *m;
    assert_int_equal(0, grammar_matcher_create(g, &m));
    assert_int_equal(0, accept_text(m, "[{}"));
    for (int i = 0; i < 10000; i++) {
        assert_int_equal(0, accept_text(m, ", {\"a\": [1, {\"b\": \"c\"}]}"));
        if (i % 100 == 0)
            assert_int_equal(0, grammar_mask(m, mask));
    }
    assert_int_equal(0, accept_text(m, "]"));
    grammar_matcher_free(m);
    grammar_unref(g);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_intersection_and_complement),
        cmocka_unit_test(test_emptiness_is_found),
        cmocka_unit_test(test_json_strings_are_spelt_one_way),
        cmocka_unit_test(test_counters_even_out),
        cmocka_unit_test(test_bad_patterns_are_refused),
        cmocka_unit_test(test_the_end_comes_where_it_may),
        cmocka_unit_test(test_control_tokens_are_not_text),
        cmocka_unit_test(test_rollback_is_exact),
        cmocka_unit_test(test_drafts_cross_from_the_thought_into_the_answer),
        cmocka_unit_test(test_compiled_grammars_are_shared),
        cmocka_unit_test(test_threads_share_a_grammar),
        cmocka_unit_test(test_long_arrays_stay_small),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
