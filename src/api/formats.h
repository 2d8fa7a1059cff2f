/* The formats of replies, and what they share. */
#ifndef API_FORMATS_H
#define API_FORMATS_H

#include <string.h>

#include "api/reply.h"

extern const struct reply_ops chat_reply;   /* /v1/chat/completions */
extern const struct reply_ops text_reply;   /* /v1/completions */

extern const struct reply_ops messages_reply; /* /v1/messages */

/* Appends an error object of Anthropic's shape. */
int messages_error_put(struct buf *out, int status, const char *param,
                       const char *text);

/* reply_ops.error of OpenAI's shape: a body, or an event and [DONE]. */
int openai_error(struct reply *r, bool event, int status, const char *text);

/* Appends "[1,2,3]". */
int put_id_list(struct buf *out, const struct ids *ids);
/* Appends the generated ids of a slot, or null. */
int put_token_ids(struct buf *out, const struct slot *s);

/* Appends the members prompt_logprobs, prompt_token_ids and, on request,
 * prompt_text of a slot, each behind a comma. */
int put_prompt_members(struct buf *out, const struct reply *r,
                       const struct slot *s);

/* {"id":..,"object":..,"created":..,"model":.. without the closing brace. */
int put_reply_head(struct buf *out, const struct reply *r,
                   const char *object);

/* Chunks of OpenAI's two stream formats begin alike, up to the choice's
 * index; the text is made once a reply. */
int put_chunk_head(struct reply *r, const char *object);
/* Ends a choice and its chunk, with running usage where it is asked. */
int put_chunk_end(struct reply *r);
/* The same for the last chunk of a choice. */
int put_last_end(struct reply *r);
/* "stop_reason" and "matched_stop", SGLang's name of it. */
int put_stop_members(struct buf *out, const struct slot *s);
/* The last chunks: usage where it is asked, and [DONE]. */
int put_stream_end(struct reply *r, const char *object);
/* "logprobs", "finish_reason":null and "token_ids" of the tokens since the
 * last chunk. */
int put_chunk_tokens(struct reply *r, struct slot *s);

#endif
