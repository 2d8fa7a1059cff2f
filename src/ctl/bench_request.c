/* What a stream of siroccoctl bench serve asks for. */
#include "config.h"

#include "ctl/bench_serve.h"

#include <string.h>

#include "json/json.h"

struct str
bench_key(const struct bench *b, long long i)
{
    if (b->n_keys == 0)
        return (struct str){0};
    const char *p = b->key;
    for (size_t skip = (size_t)i % b->n_keys; skip > 0; skip--)
        p = strchr(p, ',') + 1;
    return (struct str){p, strcspn(p, ",")};
}

int
bench_put_head(struct bench *b, struct buf *out, const char *method,
               const char *path, struct str key, size_t n_body)
{
    int rc = buf_printf(out, "%s %s%s HTTP/1.1\r\nHost: %s:%s\r\n", method,
                        b->url.prefix, path, b->url.host, b->url.port);
    if (rc == 0 && key.n > 0)
        rc = buf_printf(out, "Authorization: Bearer %.*s\r\n", (int)key.n,
                        key.p);
    if (rc == 0 && n_body > 0)
        rc = buf_printf(out, "Content-Type: application/json\r\n"
                        "Content-Length: %zu\r\n", n_body);
    return rc ? rc : buf_puts(out, "\r\n");
}

static uint64_t
next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* A word of two or three syllables at random: a few words in turn would send
 * their tokens to a few experts. */
static int
put_word(struct buf *out, uint64_t *x)
{
    static const char first[] = "bdfghklmnprstvwz", vowel[] = "aeiou";
    int rc = buf_putc(out, ' ');
    for (uint64_t i = 2 + (*x >> 63); i > 0 && rc == 0; i--) {
        next_random(x);
        rc = buf_putc(out, first[*x >> 60]);
        rc = rc ? rc : buf_putc(out, vowel[(*x >> 32) % 5]);
    }
    return rc;
}

/* A message of words for chat completions, or ids for completions. */
static int
put_prompt(struct bench *b, struct buf *out)
{
    uint64_t x = b->t_begin + (uint64_t)b->n_sent * 0x9e3779b97f4a7c15ull;
    if (b->prompt_ids == 0) {
        int rc = buf_printf(out, ",\"messages\":[{\"role\":\"user\","
                            "\"content\":\"%lld", b->n_sent);
        for (long long i = 0; i < b->prompt_words && rc == 0; i++)
            rc = put_word(out, &x);
        return rc ? rc : buf_puts(out, "\"}]");
    }
    int rc = buf_puts(out, ",\"prompt\":");
    for (long long i = 0; i < b->prompt_ids && rc == 0; i++)
        rc = buf_printf(out, "%c%d", i ? ',' : '[',
                        (int)((next_random(&x) >> 32) % (uint64_t)b->vocab));
    return rc ? rc : buf_putc(out, ']');
}

/* A body with its own words, so that no prompt is another's prefix, and none of
 * an earlier run's is in the cache. */
int
bench_put_request(struct stream *s)
{
    struct bench *b = s->b;
    struct buf body = {0};
    int rc = buf_printf(&body, "{\"model\":");
    if (rc == 0)
        rc = json_put_string(&body, b->model, strlen(b->model));
    if (rc == 0)
        rc = put_prompt(b, &body);
    if (rc == 0)
        rc = buf_printf(&body, ",\"max_tokens\":%lld,\"ignore_eos\":true,"
                        "\"seed\":%lld", b->n_tokens, 1000000 + b->n_sent);
    if (rc == 0 && b->stream)
        rc = buf_puts(&body, ",\"stream\":true,\"stream_options\":"
                      "{\"include_usage\":true}");
    if (rc == 0)
        rc = buf_putc(&body, '}');
    s->out.len = 0;
    if (rc == 0)
        rc = bench_put_head(b, &s->out, "POST", b->prompt_ids
                            ? "/v1/completions" : "/v1/chat/completions",
                            bench_key(b, b->n_sent), body.len);
    if (rc == 0)
        rc = buf_append(&s->out, body.data, body.len);
    buf_free(&body);
    return rc;
}
