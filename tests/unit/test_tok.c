#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tok/bpe.h"
#include "tok/split.h"
#include "tok/tok.h"

#define PATTERN                                                             \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}"    \
    "\\\\p{M}]*[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+|[^\\\\r\\\\n\\\\p{L}"  \
    "\\\\p{N}]?[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]+[\\\\p{Ll}"    \
    "\\\\p{Lm}\\\\p{Lo}\\\\p{M}]*|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"      \
    "[\\\\r\\\\n/]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

static void
put_base64(struct buf *b, const char *p, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop"
                                "qrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t x = 0;
        for (size_t k = 0; k < 3; k++)
            x = x << 8 | (i + k < n ? (unsigned char)p[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            buf_putc(b, i + k > n ? '=' : digit[x >> (18 - 6 * k) & 63]);
    }
}

static const char *const merges[] = {"th", "the", " t", " the", "aa", "aaaa",
                                     "ab", "abab", "\xc3\xa9", "\n\n", "dropped"};
#define N_MERGES (sizeof merges / sizeof *merges)

/* A file with the 256 bytes and merges, the last of them beyond the size. */
static void
make_file(struct buf *b, const char *version, const char *rest)
{
    buf_printf(b, "{\"config\": {\"pattern\": \"" PATTERN "\", "
               "\"num_vocab_tokens\": 9, \"default_vocab_size\": %zu, "
               "\"default_num_special_tokens\": 24, \"version\": \"%s\"},"
               "\n%s \"vocab\": [", 24 + 256 + N_MERGES - 1, version, rest);
    for (size_t i = 0; i < 256 + N_MERGES; i++) {
        char byte = (char)i;
        buf_printf(b, "%s{\"rank\": %zu, \"token_bytes\": \"", i ? ", " : "",
                   i);
        if (i < 256)
            put_base64(b, &byte, 1);
        else
            put_base64(b, merges[i - 256], strlen(merges[i - 256]));
        buf_puts(b, "\", \"token_str\": \"\\u0041 \\\" ]}\"}");
    }
    buf_puts(b, "]}\n");
}

static struct tok *
make_tok(const char *version, const char *rest)
{
    struct buf b = {0};
    struct tok *t = NULL;
    struct err e = {0};
    make_file(&b, version, rest);
    if (tok_parse(b.data, b.len, &t, &e) != 0)
        fail_msg("%s", e.text);
    buf_free(&b);
    return t;
}

#define V15 "\"special_tokens\": [{\"rank\": 1, \"token_str\": \"<s>\", " \
            "\"is_control\": true}, {\"rank\": 0, \"token_str\": \"<unk>\"}]," \
            "\"image\": {\"image_patch_size\": 14, \"max_image_size\": 1540, " \
            "\"spatial_merge_size\": 2}, "
#define EFFORT(x) "\"model_settings_builder\": {\"reasoning_effort\": " x "},"
#define EFFORT_OK "{\"type\": \"enum\", \"accepts_none\": true, " \
                  "\"default\": \"none\", \"values\": [\"none\", \"high\"]}"

static void
test_info_says_what_the_file_says(void **state)
{
    struct tok *t = make_tok("v15", V15 EFFORT(EFFORT_OK));
    const struct tok_info *i = tok_info(t);
    assert_string_equal("v15", i->version);
    assert_int_equal(24, i->n_special);
    assert_int_equal(24 + 256 + N_MERGES - 1, i->n_vocab);
    assert_true(i->has_image);
    assert_int_equal(14, i->image_patch);
    assert_int_equal(1540, i->image_max);
    assert_int_equal(2, i->image_merge);
    assert_true(i->has_settings && i->has_effort && i->effort_accepts_none);
    assert_string_equal("none", i->effort_default);
    assert_int_equal(2, i->n_effort_values);
    assert_string_equal("high", i->effort_values[1]);
    assert_int_equal(1, tok_special(t, "<s>"));
    assert_int_equal(2, tok_special(t, "<SPECIAL_2>"));
    assert_int_equal(-1, tok_special(t, "[INST]"));
    assert_int_equal(-1, tok_special(t, "the"));
    assert_true(str_eq(STR("<unk>"), tok_bytes(t, 0)));
    assert_true(str_eq(STR(" the"), tok_bytes(t, 24 + 256 + 3)));
    assert_null(tok_bytes(t, i->n_vocab).p);
    assert_null(tok_bytes(t, -1).p);
    tok_free(t);
}

static void
test_old_files_have_default_specials(void **state)
{
    struct tok *t = make_tok("v3", "\"image\": {\"image_patch_size\": 16, "
                                   "\"max_image_size\": 1024}, ");
    assert_int_equal(3, tok_special(t, "[INST]"));
    assert_int_equal(19, tok_special(t, "[TOOL_CONTENT]"));
    assert_int_equal(20, tok_special(t, "<SPECIAL_20>"));
    assert_int_equal(1, tok_info(t)->image_merge);
    assert_false(tok_info(t)->has_settings);
    tok_free(t);
    t = make_tok("v11", V15 "\"multimodal\": {\"image_patch_size\": 8, "
                            "\"max_image_size\": 64}, ");
    assert_int_equal(8, tok_info(t)->image_patch);
    tok_free(t);
}

static void
check_encode(const struct tok *t, const char *text, size_t n,
             const char *want)
{
    struct ids ids = {0};
    struct buf b = {0};
    assert_int_equal(0, tok_encode(t, text, n, &ids));
    for (size_t i = 0; i < ids.n; i++) {
        struct str s = tok_bytes(t, ids.id[i]);
        buf_printf(&b, i ? "|%.*s" : "%.*s", (int)s.n, s.p);
    }
    assert_string_equal(want, b.len ? buf_cstr(&b) : "");
    buf_free(&b);
    ids_free(&ids);
}
#define CHECK_ENCODE(t, text, want) \
    check_encode(t, text, sizeof text - 1, want)

static void
test_encoding_merges_by_rank(void **state)
{
    struct tok *t = make_tok("v3", "");
    CHECK_ENCODE(t, "", "");
    CHECK_ENCODE(t, "the the", "the| the");
    CHECK_ENCODE(t, "thea", "the|a");
    CHECK_ENCODE(t, "aaa", "aa|a");
    CHECK_ENCODE(t, "aaaaaaa", "aaaa|aa|a");
    CHECK_ENCODE(t, "ababb", "abab|b");
    CHECK_ENCODE(t, "dropped", "d|r|o|p|p|e|d");
    CHECK_ENCODE(t, "[INST]", "[|I|N|S|T|]");
    CHECK_ENCODE(t, "x\n\n\n y", "x|\n\n|\n| |y");
    CHECK_ENCODE(t, "\xc3\xa9", "\xc3\xa9");
    /* An ill-formed byte is a replacement character. */
    CHECK_ENCODE(t, "a\xff", "a|\xef|\xbf|\xbd");
    struct ids ids = {0};
    assert_int_equal(0, tok_encode(t, "a\0b", 3, &ids));
    assert_int_equal(3, ids.n);
    assert_int_equal(24, ids.id[1]);
    ids_free(&ids);
    tok_free(t);
}

/* A long piece goes through the heap, a short one through the array. */
static void
test_long_pieces_merge_as_short_ones(void **state)
{
    struct vocab v = {0};
    struct bpe_scratch scratch = {0};
    char text[4096];
    srand(7);
    for (int i = 0; i < 256; i++)
        assert_int_equal(0, vocab_add(&v, (char[]){(char)i}, 1));
    /* Tokens of the letters a, b, c, of random lengths. */
    for (int i = 0; i < 60; i++) {
        size_t n = 2 + (size_t)rand() % 4;
        for (size_t k = 0; k < n; k++)
            text[k] = (char)('a' + rand() % 3);
        assert_int_equal(0, vocab_index(&v, NULL));
        bool there = vocab_find(&v, text, n) >= 0;
        free(v.slot);
        if (!there)
            assert_int_equal(0, vocab_add(&v, text, n));
    }
    assert_int_equal(0, vocab_index(&v, NULL));
    for (int round = 0; round < 400; round++) {
        struct ids whole = {0}, slow = {0};
        size_t n = 49 + (size_t)rand() % 400;
        for (size_t k = 0; k < n; k++)
            text[k] = (char)('a' + rand() % 3);
        assert_int_equal(0, bpe_encode(&v, text, n, 0, &scratch, &whole));
        /* The definition: join the leftmost lowest pair until there is none. */
        for (size_t k = 0; k < n; k++)
            ids_push(&slow, (unsigned char)text[k]);
        for (;;) {
            int32_t best = INT32_MAX;
            size_t at = 0;
            char *end = NULL;
            for (size_t k = 0; k + 1 < slow.n; k++) {
                char pair[16];
                struct str a = vocab_bytes(&v, (size_t)slow.id[k]);
                struct str b = vocab_bytes(&v, (size_t)slow.id[k + 1]);
                end = pair;
                memcpy(end, a.p, a.n);
                memcpy(end + a.n, b.p, b.n);
                int32_t r = vocab_find(&v, pair, a.n + b.n);
                if (r >= 0 && r < best) {
                    best = r;
                    at = k;
                }
            }
            if (best == INT32_MAX)
                break;
            slow.id[at] = best;
            memmove(slow.id + at + 1, slow.id + at + 2,
                    (slow.n - at - 2) * sizeof *slow.id);
            slow.n--;
        }
        assert_int_equal(slow.n, whole.n);
        assert_memory_equal(slow.id, whole.id, slow.n * sizeof *slow.id);
        ids_free(&whole);
        ids_free(&slow);
    }
    bpe_scratch_free(&scratch);
    vocab_free(&v);
}

static void
test_decoding_repairs_each_run(void **state)
{
    struct tok *t = make_tok("v3", "");
    struct buf b = {0};
    int32_t e2 = 24 + 0xe2, x82 = 24 + 0x82, xac = 24 + 0xac;
    const int32_t whole[] = {e2, x82, xac}, cut[] = {e2, 9, x82, 24 + 'A'};
    assert_int_equal(0, tok_decode(t, whole, 3, TOK_IGNORE, &b));
    assert_string_equal("\xe2\x82\xac", buf_cstr(&b));
    b.len = 0;
    assert_int_equal(0, tok_decode(t, cut, 4, TOK_IGNORE, &b));
    assert_string_equal("\xef\xbf\xbd\xef\xbf\xbd" "A", buf_cstr(&b));
    b.len = 0;
    assert_int_equal(0, tok_decode(t, cut, 4, TOK_KEEP, &b));
    assert_string_equal("\xef\xbf\xbd[TOOL_CALLS]\xef\xbf\xbd" "A",
                        buf_cstr(&b));
    size_t before = b.len;
    assert_int_equal(ERR_RANGE, tok_decode(t, cut, 4, TOK_RAISE, &b));
    const int32_t unknown[] = {24 + 'A', tok_info(t)->n_vocab};
    assert_int_equal(ERR_RANGE, tok_decode(t, unknown, 2, TOK_KEEP, &b));
    assert_int_equal(before, b.len);
    buf_free(&b);
    tok_free(t);
}

static void
test_marks_cannot_be_forged(void **state)
{
    struct tok *t = make_tok("v3", "");
    struct buf b = {0};
    char mark[TOK_MARK_LEN];
    for (int32_t id = 0; id < TOK_MARK_MAX; id++) {
        tok_mark(id, mark);
        assert_int_equal(id, tok_mark_id(mark));
    }
    assert_int_equal(-1, tok_mark_id("\xff\x80\x80\x80"));
    assert_int_equal(-1, tok_mark_id("\xff\xf8\x80""a"));
    assert_int_equal(0, tok_emit(t, 9, &b));
    assert_int_equal(9, tok_mark_id(b.data));
    /* The same four bytes as tokens leave nothing that looks like a mark. */
    size_t at = b.len;
    for (int i = 0; i < TOK_MARK_LEN; i++)
        assert_int_equal(0, tok_emit(t, 24 + (unsigned char)b.data[i], &b));
    assert_int_equal(at + 4, b.len);
    for (size_t i = at; i < b.len; i++)
        assert_true((unsigned char)b.data[i] < 0xf8);
    assert_int_equal(0, tok_emit(t, 24 + 'A', &b));
    assert_int_equal('A', b.data[b.len - 1]);
    at = b.len;
    assert_int_equal(0, tok_emit(t, 1 << 20, &b));
    assert_int_equal(at, b.len);
    buf_free(&b);
    tok_free(t);
}

static void
test_white_space_is_unicodes(void **state)
{
    static const char *const space[] = {"\xc2\x85", "\xe2\x80\x83",
                                        "\xe3\x80\x80", "\x0b"};
    static const char pattern[] = "\\s+|[^\\s]+|\\S";
    struct split *s;
    const char *p;
    size_t n;
    assert_int_equal(0, split_create(pattern, sizeof pattern - 1, &s, NULL));
    for (size_t i = 0; i < 4; i++) {
        char text[16];
        int len = snprintf(text, sizeof text, "a%sb", space[i]);
        struct split_cursor *c = split_begin(s, text, (size_t)len);
        assert_int_equal(1, split_next(c, &p, &n));
        assert_int_equal(1, n);
        assert_int_equal(1, split_next(c, &p, &n));
        assert_int_equal(strlen(space[i]), n);
        split_end(c);
    }
    /* U+180E is no white space. */
    struct split_cursor *c = split_begin(s, "a\xe1\xa0\x8e", 4);
    assert_int_equal(1, split_next(c, &p, &n));
    assert_int_equal(4, n);
    assert_int_equal(0, split_next(c, &p, &n));
    split_end(c);
    split_free(s);
}

static void
test_split_patterns_are_checked(void **state)
{
    struct err e = {0};
    struct split *s = NULL;
    assert_int_equal(ERR_FORMAT, split_create("a(", 2, &s, &e));
    assert_non_null(strstr(e.text, "offset 2"));
    assert_int_equal(ERR_UNSUPPORTED, split_create("a\\w", 3, &s, &e));
    assert_int_equal(ERR_UNSUPPORTED, split_create("[\\S]", 4, &s, &e));
    assert_null(s);
    /* Empty matches give no pieces, and no endless loop. */
    const char *p;
    size_t n;
    assert_int_equal(0, split_create("b*", 2, &s, &e));
    struct split_cursor *c = split_begin(s, "\xc3\xa9" "abba", 6);
    assert_int_equal(1, split_next(c, &p, &n));
    assert_int_equal(2, n);
    assert_int_equal(0, split_next(c, &p, &n));
    split_end(c);
    split_free(s);
}

static void
check_refused(const char *version, const char *rest, int code,
              const char *said)
{
    struct buf b = {0};
    struct tok *t = NULL;
    struct err e = {0};
    make_file(&b, version, rest);
    assert_int_equal(code, tok_parse(b.data, b.len, &t, &e));
    if (strstr(e.text, said) == NULL)
        fail_msg("'%s' does not say '%s'", e.text, said);
    buf_free(&b);
}

static void
test_bad_parts_are_named(void **state)
{
    check_refused("v8", "", ERR_FORMAT, "config.version 'v8'");
    check_refused("v15", "", ERR_FORMAT, "special_tokens is missing");
    check_refused("v3", EFFORT(EFFORT_OK), ERR_FORMAT,
                  "does not belong in a file of version v3");
    check_refused("v13", V15 "\"multimodal\": {\"image_patch_size\": 1}, ",
                  ERR_FORMAT, "must be called image");
    check_refused("v15", V15 EFFORT("{\"values\": [\"a\"], \"default\": "
                                    "\"b\"}"), ERR_FORMAT, "default");
    check_refused("v15", V15 EFFORT("{\"values\": [\"a\", \"a\"]}"),
                  ERR_FORMAT, "twice");
    check_refused("v15", V15 EFFORT("{\"values\": [], \"accepts_none\": "
                                    "false}"), ERR_FORMAT, "empty");
    check_refused("v15", V15 "\"model_settings_builder\": {\"new\": {}}, ",
                  ERR_UNSUPPORTED, "model_settings_builder.new");
    check_refused("v3", "\"special_tokens\": [{\"rank\": 24, \"token_str\": "
                        "\"a\"}], ", ERR_FORMAT, "special_tokens[0].rank");
    check_refused("v3", "\"special_tokens\": [{\"rank\": 2, \"token_str\": "
                        "\"<SPECIAL_3>\"}], ", ERR_FORMAT, "twice");
    check_refused("v3", "\"image\": {\"image_patch_size\": 0}, ", ERR_FORMAT,
                  "image.image_patch_size");
    check_refused("v3", "\"config\": 7 \"x\": 0, ", ERR_FORMAT, "expected");
}

static void
test_bad_vocabularies_are_named(void **state)
{
    static const struct {
        const char *from, *to, *said;
    } row[] = {
        {"\"rank\": 258", "\"rank\": 259", "vocab[258]: its rank"},
        {"\"token_bytes\": \"AQ==\"", "\"token_bytes\": \"Ag==\"",
         "vocab[1] must be the single byte"},
        {"\"token_bytes\": \"dGhl\"", "\"token_bytes\": \"dGg=\"",
         "same bytes as vocab[256]"},
        {"\"token_bytes\": \"dGhl\"", "\"token_bytes\": \"dGh\"", "base64"},
        {"\"token_bytes\": \"dGhl\"", "\"token_bytes\": \"d=hl\"", "base64"},
        {"\"token_bytes\": \"dGhl\"", "\"token_byte\": \"dGhl\"",
         "vocab[257]: no token_bytes"},
        {"\"vocab\"", "\"vocabulary\"", "vocab is missing"},
        {"\"default_vocab_size\": 290", "\"default_vocab_size\": 299",
         "vocab has 267 entries"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct buf b = {0}, c = {0};
        struct tok *t = NULL;
        struct err e = {0};
        make_file(&b, "v3", "");
        const char *at = strstr(buf_cstr(&b), row[i].from);
        assert_non_null(at);
        buf_append(&c, b.data, (size_t)(at - b.data));
        buf_puts(&c, row[i].to);
        buf_puts(&c, at + strlen(row[i].from));
        assert_int_equal(ERR_FORMAT, tok_parse(c.data, c.len, &t, &e));
        if (strstr(e.text, row[i].said) == NULL)
            fail_msg("'%s' does not say '%s'", e.text, row[i].said);
        buf_free(&b);
        buf_free(&c);
    }
}

static void
test_files_cut_short_are_refused(void **state)
{
    struct buf b = {0};
    make_file(&b, "v15", V15 EFFORT(EFFORT_OK));
    for (size_t n = 0; n + 1 < b.len; n += n < 1500 ? 1 : 97) {
        /* A copy of its own size, so that a read past the end is seen. */
        char *copy = malloc(n ? n : 1);
        struct tok *t = NULL;
        struct err e = {0};
        memcpy(copy, b.data, n);
        assert_int_equal(ERR_FORMAT, tok_parse(copy, n, &t, &e));
        assert_true(e.text[0] != 0);
        free(copy);
    }
    buf_free(&b);
    struct tok *t = NULL;
    struct err e = {0};
    assert_int_equal(ERR_NOENT, tok_load("/nonexistent/t.json", &t, &e));
    assert_non_null(strstr(e.text, "/nonexistent/t.json"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info_says_what_the_file_says),
        cmocka_unit_test(test_old_files_have_default_specials),
        cmocka_unit_test(test_encoding_merges_by_rank),
        cmocka_unit_test(test_long_pieces_merge_as_short_ones),
        cmocka_unit_test(test_decoding_repairs_each_run),
        cmocka_unit_test(test_marks_cannot_be_forged),
        cmocka_unit_test(test_white_space_is_unicodes),
        cmocka_unit_test(test_split_patterns_are_checked),
        cmocka_unit_test(test_bad_parts_are_named),
        cmocka_unit_test(test_bad_vocabularies_are_named),
        cmocka_unit_test(test_files_cut_short_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
