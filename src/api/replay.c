#include "config.h"

#include "api/replay.h"

#include "api/chat_json.h"
#include "api/choice.h"

/* Deltas of the pieces at hand, each behind a comma. */
static int
put_deltas(struct choice *c, enum reasoning_field field, struct buf *deltas)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < c->n_piece; i++) {
        rc = buf_putc(deltas, ',');
        rc = rc ? rc : chat_put_delta(deltas, c, &c->piece[i], field);
    }
    choice_sent(c);
    return rc;
}

static int
check(const struct replay *r, struct err *e)
{
    int n_vocab = tok_info(r->tok)->n_vocab;

    for (size_t i = 0; i < r->n; i++)
        if (r->id[i] < 0 || r->id[i] >= n_vocab)
            return err_set(e, ERR_RANGE, "ids: element %zu is outside the "
                           "vocabulary of %d", i, n_vocab);
    for (size_t i = 0; i < r->n_cut; i++)
        if (r->cut[i] > r->n || (i > 0 && r->cut[i] < r->cut[i - 1]))
            return err_set(e, ERR_RANGE, "cuts: element %zu is out of order "
                           "or beyond the %zu ids", i, r->n);
    return 0;
}

/* Feeds all ids; the deltas go out at every cut. */
static int
feed(const struct replay *r, struct choice *c, enum reasoning_field field,
     struct buf *deltas)
{
    int end_id = tok_special(r->tok, "</s>");
    size_t k = 0;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < r->n; i++) {
        while (k < r->n_cut && r->cut[k] <= i) {
            k++;
            rc = rc ? rc : put_deltas(c, field, deltas);
        }
        if (r->id[i] == end_id) {
            choice_end_token(c);
            return rc ? rc : choice_finish(c, CHOICE_STOP);
        }
        rc = rc ? rc : choice_token(c, r->id[i]);
    }
    return rc ? rc : choice_finish(c, CHOICE_LENGTH);
}

int
replay_put(const struct replay *r, struct buf *out, struct err *e)
{
    struct choice_options o = {
        .tok = r->tok, .filters = r->filters, .collect = true,
        .numbered_ids = true,
        .filter = {.reasoning = true, .tools = true},
    };
    enum reasoning_field field = reasoning_field_parse(r->reasoning_field);
    struct choice c;
    struct buf deltas = {0};

    int rc = check(r, e);
    if (rc != 0)
        return rc;
    rc = choice_open(&c, &o);
    rc = rc ? rc : buf_puts(&deltas, CHAT_FIRST_DELTA);
    rc = rc ? rc : feed(r, &c, field, &deltas);
    rc = rc ? rc : put_deltas(&c, field, &deltas);
    rc = rc ? rc : buf_puts(out, "{\"message\":");
    rc = rc ? rc : chat_put_message(out, &c, field);
    rc = rc ? rc : buf_puts(out, ",\"deltas\":[");
    rc = rc ? rc : buf_append(out, deltas.data, deltas.len);
    rc = rc ? rc : buf_printf(out, "],\"finish_reason\":\"%s\"}",
                              choice_reason(&c, false));
    buf_free(&deltas);
    choice_close(&c);
    return rc ? err_set(e, rc, "out of memory") : 0;
}
