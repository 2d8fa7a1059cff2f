#include "config.h"

#include "api/logprob_json.h"

#include "base/utf8.h"
#include "json/json.h"

#define FLOOR (-9999.0)   /* JSON has no -Infinity */

static int
put_value(struct buf *out, float x)
{
    return json_put_double(out, x > FLOOR ? (double)x : FLOOR);
}

/* A token's text as a JSON string. */
static int
put_token(struct buf *out, const struct tok *tok, int32_t id, bool as_ids)
{
    struct str s = tok_bytes(tok, id);

    if (as_ids)
        return buf_printf(out, "\"token_id:%d\"", (int)id);
    return json_put_string(out, s.p ? s.p : "", s.n);
}

static int
put_bytes(struct buf *out, struct str s)
{
    int rc = buf_putc(out, '[');

    for (size_t i = 0; rc == 0 && i < s.n; i++)
        rc = buf_printf(out, i ? ",%d" : "%d", (unsigned char)s.p[i]);
    return rc ? rc : buf_putc(out, ']');
}

/* {"token":..,"logprob":..,"bytes":[..] without the closing brace. */
static int
put_entry(struct buf *out, const struct tok *tok, const struct logprob *p,
          bool as_ids)
{
    int rc = buf_puts(out, "{\"token\":");

    rc = rc ? rc : put_token(out, tok, p->id, as_ids);
    rc = rc ? rc : buf_puts(out, ",\"logprob\":");
    rc = rc ? rc : put_value(out, p->logprob);
    rc = rc ? rc : buf_puts(out, ",\"bytes\":");
    return rc ? rc : put_bytes(out, tok_bytes(tok, p->id));
}

/* Whether alternative k of entry i is an id asked for that stands there
 * already. */
static bool
said_before(const struct engine_logprobs *lp, uint32_t i, uint32_t k)
{
    const struct logprob *top = &lp->top[i * lp->n_top];

    if (k < lp->n_top - lp->n_ask)
        return false;
    for (uint32_t j = 0; j < k; j++)
        if (top[j].id == top[k].id)
            return true;
    return false;
}

static int
add_chat(struct logprob_text *t, const struct tok *tok,
         const struct engine_logprobs *lp, uint32_t i, bool as_ids)
{
    struct buf *out = &t->entry;
    int rc = out->len ? buf_putc(out, ',') : 0;

    rc = rc ? rc : put_entry(out, tok, &lp->token[i], as_ids);
    rc = rc ? rc : buf_puts(out, ",\"top_logprobs\":[");
    for (uint32_t k = 0; rc == 0 && k < lp->n_top; k++) {
        if (said_before(lp, i, k))
            continue;
        rc = k ? buf_putc(out, ',') : 0;
        rc = rc ? rc : put_entry(out, tok, &lp->top[i * lp->n_top + k],
                                 as_ids);
        rc = rc ? rc : buf_putc(out, '}');
    }
    return rc ? rc : buf_puts(out, "]}");
}

/* Characters of a token, an ill-formed one counted as U+FFFD. */
static size_t
characters(struct str s)
{
    size_t n = 0;
    uint32_t cp;

    for (size_t i = 0; i < s.n; n++)
        i += utf8_decode(s.p + i, s.n - i, &cp);
    return n;
}

/* {"text":value,...}: the alternatives, and the token if it is not one. */
static int
put_top_text(struct buf *out, const struct tok *tok,
             const struct engine_logprobs *lp, uint32_t i, bool as_ids)
{
    const struct logprob *top = &lp->top[i * lp->n_top];
    bool seen = false;
    int rc = buf_putc(out, '{');

    for (uint32_t k = 0; rc == 0 && k <= lp->n_top; k++) {
        const struct logprob *p = k < lp->n_top ? &top[k] : &lp->token[i];
        if (k == lp->n_top ? seen : said_before(lp, i, k))
            continue;
        seen = seen || p->id == lp->token[i].id;
        rc = k ? buf_putc(out, ',') : 0;
        rc = rc ? rc : put_token(out, tok, p->id, as_ids);
        rc = rc ? rc : buf_putc(out, ':');
        rc = rc ? rc : put_value(out, p->logprob);
    }
    return rc ? rc : buf_putc(out, '}');
}

/* Entry i, which is token id. The first prompt token has no probability. */
static int
add_text(struct logprob_text *t, const struct tok *tok,
         const struct engine_logprobs *lp, uint32_t i, int32_t id,
         bool as_ids)
{
    const char *comma = t->entry.len ? "," : "";
    const struct logprob *p = &lp->token[i];
    bool none = p->id < 0;

    int rc = buf_puts(&t->entry, comma);
    rc = rc ? rc : put_token(&t->entry, tok, id, as_ids);
    rc = rc ? rc : buf_puts(&t->value, comma);
    rc = rc ? rc : none ? buf_puts(&t->value, "null")
                        : put_value(&t->value, p->logprob);
    rc = rc ? rc : buf_puts(&t->top, comma);
    rc = rc ? rc : none ? buf_puts(&t->top, "null")
                        : put_top_text(&t->top, tok, lp, i, as_ids);
    rc = rc ? rc : buf_printf(&t->offset, "%s%zu", comma, t->at);
    if (t->spell || id >= tok_info(tok)->n_special)
        t->at += characters(tok_bytes(tok, id));
    return rc;
}

int
logprob_add(struct logprob_text *t, enum logprob_style style,
            const struct tok *tok, const struct engine_logprobs *lp,
            uint32_t i, bool as_ids)
{
    return style == LOGPROB_CHAT
               ? add_chat(t, tok, lp, i, as_ids)
               : add_text(t, tok, lp, i, lp->token[i].id, as_ids);
}

int
logprob_add_prompt(struct logprob_text *t, const struct tok *tok,
                   const struct engine_logprobs *lp, const int32_t *prompt,
                   bool as_ids)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < lp->n; i++)
        rc = add_text(t, tok, lp, i, prompt[i], as_ids);
    return rc;
}

static int
put_list(struct buf *out, const char *head, const struct buf *list)
{
    int rc = buf_puts(out, head);
    return rc ? rc : buf_append(out, list->data, list->len);
}

int
logprob_put(struct buf *out, const struct logprob_text *t,
            enum logprob_style style)
{
    if (t->entry.len == 0)
        return buf_puts(out, "null");
    if (style == LOGPROB_CHAT) {
        int rc = put_list(out, "{\"content\":[", &t->entry);
        return rc ? rc : buf_puts(out, "],\"refusal\":null}");
    }
    int rc = put_list(out, "{\"tokens\":[", &t->entry);
    rc = rc ? rc : put_list(out, "],\"token_logprobs\":[", &t->value);
    rc = rc ? rc : put_list(out, "],\"top_logprobs\":[", &t->top);
    rc = rc ? rc : put_list(out, "],\"text_offset\":[", &t->offset);
    return rc ? rc : buf_puts(out, "]}");
}

void
logprob_sent(struct logprob_text *t)
{
    t->entry.len = t->value.len = t->top.len = t->offset.len = 0;
}

void
logprob_free(struct logprob_text *t)
{
    buf_free(&t->entry);
    buf_free(&t->value);
    buf_free(&t->top);
    buf_free(&t->offset);
}

static int
put_ranked(struct buf *out, const struct tok *tok, const struct logprob *p,
           uint32_t rank)
{
    int rc = buf_printf(out, "\"%d\":{\"logprob\":", (int)p->id);

    rc = rc ? rc : put_value(out, p->logprob);
    rc = rc ? rc : buf_printf(out, ",\"rank\":%u,\"decoded_token\":",
                              (unsigned)rank);
    rc = rc ? rc : put_token(out, tok, p->id, false);
    return rc ? rc : buf_putc(out, '}');
}

int
logprob_put_prompt(struct buf *out, const struct tok *tok,
                   const struct engine_logprobs *lp)
{
    int rc = buf_puts(out, "[null");

    for (uint32_t i = 1; rc == 0 && i < lp->n; i++) {
        rc = buf_puts(out, ",{");
        rc = rc ? rc : put_ranked(out, tok, &lp->token[i], lp->rank[i]);
        for (uint32_t k = 0; rc == 0 && k < lp->n_top; k++) {
            const struct logprob *p = &lp->top[i * lp->n_top + k];
            if (p->id == lp->token[i].id)
                continue;
            rc = buf_putc(out, ',');
            rc = rc ? rc : put_ranked(out, tok, p, k + 1);
        }
        rc = rc ? rc : buf_putc(out, '}');
    }
    return rc ? rc : buf_putc(out, ']');
}
