/* Images of a request: data: URLs decoded here, others through the caller. */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct loader {
    const struct image_spec *spec;
    chat_fetch_fn fetch;
    void *arg;
    struct arena *a;
    struct chat_error *ce;
    size_t message, part;
    size_t n_tokens;         /* of the images so far */
};

static int
bad(struct loader *l, int code, const char *text)
{
    /* An image that cannot be read is a bad value, not a wrong type. */
    if (code == ERR_FORMAT)
        code = ERR_RANGE;
    return chat_fail(l->a, l->ce, code, text,
                     "messages.%zu.content.%zu.image_url", l->message,
                     l->part);
}

/* --- base64 -------------------------------------------------------------- */

static int
sextet(char ch)
{
    if (ch >= 'A' && ch <= 'Z')
        return ch - 'A';
    if (ch >= 'a' && ch <= 'z')
        return ch - 'a' + 26;
    if (ch >= '0' && ch <= '9')
        return ch - '0' + 52;
    return ch == '+' ? 62 : ch == '/' ? 63 : -1;
}

/* Strict: the standard alphabet, padded, nothing else. Room for s.n / 4 * 3
 * bytes; returns the length, or -1. */
static long
base64_decode(struct str s, unsigned char *out)
{
    long n = 0;

    if (s.n == 0 || s.n % 4 != 0)
        return -1;
    size_t pad = (s.p[s.n - 1] == '=') + (s.p[s.n - 2] == '=');
    if (pad == 2 && s.p[s.n - 1] != '=')
        return -1;
    for (size_t i = 0; i < s.n; i += 4) {
        size_t left = i + 4 == s.n ? 4 - pad : 4;
        unsigned word = 0;
        for (size_t k = 0; k < 4; k++) {
            int v = k < left ? sextet(s.p[i + k]) : 0;
            if (v < 0)
                return -1;
            word = word << 6 | (unsigned)v;
        }
        for (size_t k = 0; k + 1 < left; k++)
            out[n++] = (unsigned char)(word >> (16 - 8 * k));
    }
    return n;
}

/* Payload of a data: URL of the form data:<type>;base64,<payload>. */
static bool
split_data_url(struct str url, struct str *payload)
{
    static const char mark[] = ";base64";
    const char *comma = memchr(url.p, ',', url.n);

    if (comma == NULL)
        return false;
    size_t head = (size_t)(comma - url.p), n = sizeof(mark) - 1;
    if (head < n || memcmp(comma - n, mark, n) != 0)
        return false;
    *payload = (struct str){comma + 1, url.n - head - 1};
    return payload->n > 0;
}

/* --- loading ------------------------------------------------------------- */

static void
free_image(void *im)
{
    image_free(im);
}

static int
decode(struct loader *l, struct str bytes, struct chat_part *p)
{
    struct image *im = NULL;
    struct err e = {0};

    int rc = image_decode(l->spec, bytes, &im, &e);
    if (rc == ERR_NOMEM)
        return rc;
    if (rc != 0)
        return bad(l, rc, e.text);
    if (arena_cleanup(l->a, free_image, im) != 0) {
        image_free(im);
        return ERR_NOMEM;
    }
    p->image = im;
    p->cols = im->cols;
    p->rows = im->rows;
    l->n_tokens += (size_t)(im->cols + 1) * (size_t)im->rows;
    if (l->spec->max_tokens > 0 && l->n_tokens > l->spec->max_tokens)
        return bad(l, ERR_LIMIT, "the images are larger than the model's "
                   "context");
    return 0;
}

static int
load_data(struct loader *l, struct chat_part *p)
{
    struct str payload;

    if (!split_data_url(p->url, &payload))
        return bad(l, ERR_FORMAT, "a data: URL must have the form "
                   "data:<type>;base64,<payload>");
    unsigned char *bytes = malloc(payload.n / 4 * 3 + 3);
    if (bytes == NULL)
        return ERR_NOMEM;
    long n = base64_decode(payload, bytes);
    int rc = n < 0 ? bad(l, ERR_FORMAT, "the image is not valid base64")
                   : decode(l, (struct str){(char *)bytes, (size_t)n}, p);
    free(bytes);
    return rc;
}

static bool
starts(struct str s, const char *with)
{
    size_t n = strlen(with);
    return s.n >= n && strncasecmp(s.p, with, n) == 0;
}

static int
load(struct loader *l, struct chat_part *p)
{
    struct str bytes = {0};
    struct err e = {0};

    if (starts(p->url, "data:"))
        return load_data(l, p);
    if (!starts(p->url, "http://") && !starts(p->url, "https://"))
        return bad(l, ERR_FORMAT, "an image URL must be a data: or an http(s) "
                   "URL");
    if (l->fetch == NULL)
        return bad(l, ERR_UNSUPPORTED, "this server fetches no images; send "
                   "a data: URL");
    int rc = l->fetch(l->arg, p->url, l->a, &bytes, &e);
    if (rc == ERR_NOMEM)
        return rc;
    return rc ? bad(l, rc, e.text) : decode(l, bytes, p);
}

int
chat_load_images(const struct chat *c, struct chat_request *req,
                 const struct image_spec *spec, chat_fetch_fn fetch,
                 void *arg, struct arena *a, struct chat_error *ce)
{
    struct loader l = {spec, fetch, arg, a, ce, 0, 0, 0};

    (void)c;
    for (l.message = 0; l.message < req->n_message; l.message++) {
        struct chat_message *m = &req->message[l.message];
        for (l.part = 0; l.part < m->n_part; l.part++) {
            if (m->part[l.part].type != CHAT_IMAGE)
                continue;
            int rc = load(&l, &m->part[l.part]);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}
