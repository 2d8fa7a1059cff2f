/* Log-probabilities in the shapes of the API. */
#ifndef API_LOGPROB_JSON_H
#define API_LOGPROB_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "engine/engine.h"
#include "tok/tok.h"

enum logprob_style {
    LOGPROB_CHAT,  /* {"content":[{token, logprob, bytes, top_logprobs}]} */
    LOGPROB_TEXT   /* {tokens, token_logprobs, top_logprobs, text_offset} */
};

/* Entries collected for one object: parts of its JSON. */
struct logprob_text {
    struct buf entry;                 /* CHAT: entries; TEXT: tokens */
    struct buf value, top, offset;    /* TEXT */
    size_t at;                        /* TEXT: characters so far */
    bool spell;                       /* control tokens show in the text */
};

/* Adds entry i of lp. as_ids: a token's text is "token_id:N". 0, ERR_NOMEM. */
int logprob_add(struct logprob_text *t, enum logprob_style style,
                const struct tok *tok, const struct engine_logprobs *lp,
                uint32_t i, bool as_ids);
/* Adds a prompt's tokens, TEXT style; the first one has null values. */
int logprob_add_prompt(struct logprob_text *t, const struct tok *tok,
                       const struct engine_logprobs *lp,
                       const int32_t *prompt, bool as_ids);
/* Appends the object of what was added; null when there is nothing. */
int logprob_put(struct buf *out, const struct logprob_text *t,
                enum logprob_style style);
/* Forgets what was added, keeps the place in the text. */
void logprob_sent(struct logprob_text *t);
void logprob_free(struct logprob_text *t);

/* Appends prompt_logprobs: null for the first token, then for each
 * {"id":{"logprob":..,"rank":..,"decoded_token":".."},...}. */
int logprob_put_prompt(struct buf *out, const struct tok *tok,
                       const struct engine_logprobs *lp);

#endif
