/*
 * Seeded mutations of a small tekken.json: a file is loaded or refused with a
 * text, and what is loaded encodes and decodes anything.
 *
 * usage: fuzz_tok [rounds [seed]]
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "tests/fuzz/mutate.h"
#include "tok/tok.h"

static const char *const word[] = {
    "null", "true", "-1", "1e9", "99999999999", "\"\"", "\"\\/\"", "[", "]",
    "{", "}", ",", ":", "\\", "\"", "=", "\"rank\": ", "\"token_bytes\": ",
    "\"token_str\": \"a\"", "\"v3\"", "\"v15\"", "\"multimodal\": {}, ",
    "\"special_tokens\": null, ", "256", "257", "\\u0000", "\\ud800", "a*",
    "(?=", "\\\\s", "\\\\p{L}", "[^", NULL
};

static void
put_file(struct buf *b)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop"
                                "qrstuvwxyz0123456789+/";
    buf_puts(b, "{\"vocab\": [");
    for (unsigned i = 0; i < 256; i++)
        buf_printf(b, "{\"rank\":%u,\"token_bytes\":\"%c%c==\",\"token_str\":"
                   "null},", i, digit[i >> 2], digit[(i & 3) << 4]);
    buf_puts(b, "{\"rank\":256,\"token_bytes\":\"YWE=\",\"token_str\":\"aa\"}"
             "], \"config\": {\"pattern\": \"\\\\p{L}+|[^\\\\s\\\\p{L}]|\\\\s+"
             "(?!\\\\S)|\\\\s+\", \"default_vocab_size\": 261, "
             "\"default_num_special_tokens\": 4, \"version\": \"v15\"},"
             "\"special_tokens\": [{\"rank\": 0, \"token_str\": \"<unk>\"},"
             "{\"rank\": 1, \"token_str\": \"<s>\"}], \"image\": {"
             "\"image_patch_size\": 14, \"max_image_size\": 1540}, "
             "\"model_settings_builder\": {\"reasoning_effort\": {\"type\": "
             "\"enum\", \"accepts_none\": true, \"default\": \"none\", "
             "\"values\": [\"none\", \"high\"]}}}");
}

/* Encodes random bytes and decodes random ids. */
static int
use(struct mutate *m, const struct tok *t)
{
    char text[96];
    struct ids ids = {0};
    struct buf out = {0};
    uint32_t n = mutate_draw(m, sizeof text);

    for (uint32_t i = 0; i < n; i++)
        text[i] = (char)(mutate_draw(m, 3) ? 'a' + (char)mutate_draw(m, 3)
                                           : (char)mutate_draw(m, 256));
    int rc = tok_encode(t, text, n, &ids);
    if (rc != 0 && rc != ERR_LIMIT)
        return -1;
    for (size_t i = 0; i < ids.n; i++)
        if (tok_bytes(t, ids.id[i]).p == NULL)
            return -1;
    for (uint32_t i = 0; i < 20; i++)
        ids_push(&ids, (int32_t)mutate_draw(m, 400) - 50);
    rc = tok_decode(t, ids.id, ids.n, TOK_KEEP, &out);
    ids_free(&ids);
    buf_free(&out);
    return rc == 0 || rc == ERR_RANGE ? 0 : -1;
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 8000, loaded = 0;
    struct mutate m = {argc > 2 ? strtoull(argv[2], NULL, 10) : 1, word};
    struct buf file = {0}, b = {0};

    put_file(&file);
    /* Most of the file is vocabulary; half of the rounds spare it. */
    size_t tail = 600, head = file.len - tail;
    for (long i = 0; i < rounds; i++) {
        struct tok *t = NULL;
        struct err e = {0};
        if (i % 2) {
            mutate_text(&m, file.data, file.len, &b);
        } else {
            struct buf end = {0};
            mutate_text(&m, file.data + head, tail, &end);
            b.len = 0;
            buf_append(&b, file.data, head);
            buf_append(&b, end.data, end.len);
            buf_free(&end);
        }
        int rc = tok_parse(b.data, b.len, &t, &e);
        if (rc == 0 ? use(&m, t) != 0 : e.text[0] == '\0') {
            fprintf(stderr, "failed at round %ld: %s\n", i, err_str(rc));
            return 1;
        }
        loaded += rc == 0;
        tok_free(t);
    }
    printf("%ld of %ld loaded\n", loaded, rounds);
    buf_free(&file);
    buf_free(&b);
    return loaded > 0 ? 0 : 1;
}
