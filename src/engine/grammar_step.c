#include "config.h"

#include "engine/grammar_step.h"

#include <string.h>

static int fill_row(struct request *r, uint32_t row, struct err *e);
static void forbid_words(const struct request *r, uint32_t row,
                         uint32_t *mask);
static bool follows(const struct request *r, uint32_t n_draft,
                    const struct engine_word *w);
static bool is_empty(const uint32_t *mask, uint32_t words);

int
grammar_step_mask(struct request *r, uint32_t most, uint32_t *n_rows,
                  struct err *e)
{
    uint32_t n_draft = r->reset || n_rows == NULL ? 0 : r->n_draft;
    uint32_t row = 0;
    int rc = fill_row(r, 0, e);
    /* A row behind a draft that cannot be made ends the drafts, no more. */
    while (rc == 0 && row < n_draft && row + 1 < most &&
           grammar_step_accept(r, r->draft[row])) {
        struct err ignored = {0};
        row++;
        if (fill_row(r, row, &ignored) != 0) {
            if (r->in.matcher != NULL)
                grammar_rollback(r->in.matcher, 1);
            row--;
            break;
        }
    }
    if (row > 0 && r->in.matcher != NULL)
        grammar_rollback(r->in.matcher, row);
    if (n_rows != NULL)
        *n_rows = row + 1;
    return rc;
}

/* The mask behind `row` drafts, over which the matcher has moved. */
static int
fill_row(struct request *r, uint32_t row, struct err *e)
{
    uint32_t *mask = r->mask + (size_t)row * r->mask_words;
    int rc = 0;
    if (r->in.matcher != NULL)
        rc = grammar_mask(r->in.matcher, mask);
    else
        memset(mask, 0xff, r->mask_words * sizeof *mask);
    if (rc != 0)
        return err_set(e, rc, "the output grammar exceeded its budget after "
                       "%u tokens: %s", request_n_out(r), err_str(rc));
    forbid_words(r, row, mask);
    return 0;
}

/* Takes the last ids of words that the text is about to complete out of mask,
 * unless nothing would be left. */
static void
forbid_words(const struct request *r, uint32_t row, uint32_t *mask)
{
    for (size_t i = 0; i < r->in.n_word; i++) {
        const struct engine_word *w = &r->in.word[i];
        uint32_t id = (uint32_t)w->id[w->n - 1], bit = 1u << (id % 32);
        if (!(mask[id / 32] & bit) || !follows(r, row, w))
            continue;
        mask[id / 32] &= ~bit;
        if (is_empty(mask, r->mask_words))
            mask[id / 32] |= bit;
    }
}

/* Whether what is generated, the first n_draft drafts included, ends with all
 * of w but its last id. */
static bool
follows(const struct request *r, uint32_t n_draft,
        const struct engine_word *w)
{
    uint32_t n = w->n - 1;
    if (request_n_out(r) + n_draft < n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t back = n - i; /* from the end */
        int32_t id = back <= n_draft
                         ? r->draft[n_draft - back]
                         : r->token[r->n_token - (back - n_draft)];
        if (id != w->id[i])
            return false;
    }
    return true;
}

static bool
is_empty(const uint32_t *mask, uint32_t words)
{
    for (uint32_t i = 0; i < words; i++)
        if (mask[i] != 0)
            return false;
    return true;
}

bool
grammar_step_accept(struct request *r, int32_t id)
{
    return r->in.matcher == NULL || grammar_accept(r->in.matcher, id) == 0;
}

bool
grammar_step_forbids(const struct request *r, int32_t id)
{
    for (size_t i = 0; i < r->in.n_word; i++) {
        const struct engine_word *w = &r->in.word[i];
        if (w->id[w->n - 1] == id && follows(r, 0, w))
            return true;
    }
    return false;
}
