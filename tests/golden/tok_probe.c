/*
 * The tokenizer alone, for the tests that compare it with mistral-common:
 *
 *   tok_probe FILE encode      JSON strings in, arrays of ids out, by line
 *   tok_probe FILE decode P    arrays of ids in, JSON strings out; P: ignore,
 *                              keep or raise
 *   tok_probe FILE bench TEXT  load time and megabytes a second on TEXT
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "json/json.h"
#include "tok/tok.h"

#define BENCH_NS 1000000000u

static int
encode_line(const struct tok *t, struct json_object *in, struct buf *out)
{
    struct ids ids = {0};
    struct str s = json_str(in);
    int rc = tok_encode(t, s.p, s.n, &ids);

    buf_putc(out, '[');
    for (size_t i = 0; rc == 0 && i < ids.n; i++)
        rc = buf_printf(out, i ? ",%d" : "%d", (int)ids.id[i]);
    ids_free(&ids);
    return rc ? rc : buf_putc(out, ']');
}

static int
decode_line(const struct tok *t, struct json_object *in,
            enum tok_special_policy policy, struct buf *out)
{
    struct ids ids = {0};
    struct buf text = {0};
    int rc = 0;

    for (size_t i = 0; i < json_object_array_length(in); i++)
        ids_push(&ids, (int32_t)json_object_get_int(
                           json_object_array_get_idx(in, i)));
    rc = tok_decode(t, ids.id, ids.n, policy, &text);
    if (rc == 0)
        rc = json_put_string(out, text.data, text.len);
    else
        rc = buf_printf(out, "{\"error\": \"%s\"}", err_str(rc));
    buf_free(&text);
    ids_free(&ids);
    return rc;
}

static int
answer_lines(const struct tok *t, const char *mode, const char *policy_name)
{
    enum tok_special_policy policy = strcmp(policy_name, "keep") == 0
        ? TOK_KEEP : strcmp(policy_name, "raise") == 0 ? TOK_RAISE
        : TOK_IGNORE;
    struct buf out = {0};
    struct err e = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int rc = 0;

    while (rc == 0 && (n = getline(&line, &cap, stdin)) > 0) {
        struct json_object *in = NULL;
        out.len = 0;
        rc = json_parse(line, (size_t)n, 8, 0, &in, &e);
        if (rc == 0)
            rc = *mode == 'e' ? encode_line(t, in, &out)
                              : decode_line(t, in, policy, &out);
        printf("%.*s\n", (int)out.len, out.len ? out.data : "");
        json_object_put(in);
    }
    free(line);
    buf_free(&out);
    if (rc != 0)
        fprintf(stderr, "%s %s\n", err_str(rc), e.text);
    return rc;
}

static int
bench(const struct tok *t, const char *path, double load_s)
{
    struct buf text = {0};
    struct ids ids = {0};
    size_t rounds = 0;

    int rc = buf_read_file(&text, path, 1u << 30);
    if (rc != 0) {
        fprintf(stderr, "%s: %s\n", path, err_str(rc));
        return rc;
    }
    uint64_t from = clock_ns();
    do {
        ids.n = 0;
        rc = tok_encode(t, text.data, text.len, &ids);
        rounds++;
    } while (rc == 0 && clock_ns() - from < BENCH_NS);
    double s = (double)(clock_ns() - from) / 1e9;
    printf("{\"load_s\": %.3f, \"mb_s\": %.2f, \"ids\": %zu}\n", load_s,
           (double)text.len * (double)rounds / s / 1e6, ids.n);
    ids_free(&ids);
    buf_free(&text);
    return rc;
}

int
main(int argc, char **argv)
{
    struct tok *t = NULL;
    struct err e = {0};

    if (argc < 3) {
        fprintf(stderr, "usage: tok_probe FILE encode|decode|bench ...\n");
        return 2;
    }
    uint64_t from = clock_ns();
    if (tok_load(argv[1], &t, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    double load_s = (double)(clock_ns() - from) / 1e9;
    int rc = strcmp(argv[2], "bench") == 0 && argc > 3
        ? bench(t, argv[3], load_s)
        : answer_lines(t, argv[2], argc > 3 ? argv[3] : "");
    tok_free(t);
    return rc ? 1 : 0;
}
