/* Bodies of other APIs to a chat completions body: what the translators of
 * messages and responses share. */
#ifndef API_TRANSLATE_H
#define API_TRANSLATE_H

#include "api/http_call.h"

/* A new object or array, freed with the call. NULL after answering. */
struct json_object *translate_body(struct api_call *c);

/* Adds what from has at key to to, as name; nothing when it has none. */
void translate_copy(struct json_object *to, const char *name,
                    struct json_object *from, const char *key);
/* Adds a string. */
void translate_set(struct json_object *to, const char *key, struct str text);
/* {"role": role} at the end of list. */
struct json_object *translate_message(struct json_object *list,
                                      const char *role);
/* {"type": type} at the end of list. */
struct json_object *translate_part(struct json_object *list,
                                   const char *type);
/* Adds a function tool; parameters may be NULL. */
void translate_tool(struct json_object *tools, struct json_object *name,
                    struct json_object *description,
                    struct json_object *parameters,
                    struct json_object *strict);

/* Whether o is a string equal to text. */
bool translate_is(struct json_object *o, const char *text);

/* Anthropic's body to OpenAI's, in place of c->body. need_limit: max_tokens
 * must be given. 0, or -1 after answering. */
int translate_messages(struct api_call *c, bool need_limit);
/* A responses body likewise. */
int translate_responses(struct api_call *c);

#endif
