/*
 * Content of one message: strings, lists of parts under the names that clients
 * use, and the thoughts of assistant messages.
 *
 * DESIGN. A reader per part type in one table. Strict follows the reference's
 * converter: its types only, its extra-key rules. Lenient adds the spellings
 * of the Responses and Messages shapes and plain strings in a list. What a
 * role may hold is asked of the format afterwards, so both modes share it.
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "json/json.h"

static int
bad(struct chat_reader *r, size_t i, const char *text)
{
    return chat_fail(r->a, r->ce, ERR_FORMAT, text, "messages.%zu.content.%zu",
                     r->index, i);
}

static bool
has(struct json_object *o, const char *key)
{
    return json_object_object_get_ex(o, key, NULL);
}

static bool
is_string(struct json_object *o)
{
    return json_object_is_type(o, json_type_string);
}

bool
chat_read_bool(struct json_object *o, bool *value)
{
    static const char *const words[2][6] = {
        {"0", "off", "f", "false", "n", "no"},
        {"1", "on", "t", "true", "y", "yes"},
    };

    if (json_object_is_type(o, json_type_boolean)) {
        *value = json_object_get_boolean(o);
        return true;
    }
    if (json_object_is_type(o, json_type_int)
        || json_object_is_type(o, json_type_double)) {
        double x = json_object_get_double(o);
        *value = x == 1;
        return x == 0 || x == 1;
    }
    struct str s = json_str(o);
    for (int v = 0; v < 2; v++)
        for (int w = 0; w < 6; w++)
            if (s.n == strlen(words[v][w])
                && strncasecmp(s.p, words[v][w], s.n) == 0) {
                *value = v;
                return true;
            }
    return false;
}

/* --- parts --------------------------------------------------------------- */

static int
read_text(struct chat_reader *r, size_t i, struct json_object *o,
          struct chat_part *p)
{
    struct json_object *text = json_get(o, "text");
    if (!is_string(text))
        return bad(r, i, "a text part needs a string in text");
    p->type = CHAT_TEXT;
    p->text = json_str(text);
    return 0;
}

static int
read_refusal(struct chat_reader *r, size_t i, struct json_object *o,
             struct chat_part *p)
{
    struct json_object *text = json_get(o, "refusal");
    if (!is_string(text))
        return bad(r, i, "a refusal part needs a string in refusal");
    p->type = CHAT_TEXT;
    p->text = json_str(text);
    return 0;
}

/* Thoughts come as a string, or (Mistral's own API) as text parts. */
static int
join_thought(struct chat_reader *r, size_t i, struct json_object *list,
             struct str *out)
{
    struct buf b = {0};
    size_t n = json_object_array_length(list);

    for (size_t k = 0; k < n; k++) {
        struct json_object *part = json_object_array_get_idx(list, k);
        struct json_object *text = json_get(part, "text");
        if (!is_string(text)) {
            buf_free(&b);
            return bad(r, i, "thinking must be a string or a list of text "
                       "parts");
        }
        struct str s = json_str(text);
        if (buf_append(&b, s.p, s.n) != 0) {
            buf_free(&b);
            return ERR_NOMEM;
        }
    }
    *out = chat_take(r->a, &b);
    return out->p ? 0 : ERR_NOMEM;
}

static int
read_thinking(struct chat_reader *r, size_t i, struct json_object *o,
              struct chat_part *p)
{
    struct json_object *text = json_get(o, "thinking");
    bool closed = true;

    if (!r->strict && text == NULL)
        text = json_get(o, "text");
    if (!r->strict && text == NULL)
        text = json_get(o, "reasoning");
    p->type = CHAT_THINKING;
    if (is_string(text)) {
        p->text = json_str(text);
    } else if (!r->strict && json_object_is_type(text, json_type_array)) {
        int rc = join_thought(r, i, text, &p->text);
        if (rc != 0)
            return rc;
    } else {
        return bad(r, i, "a thinking part needs a string in thinking");
    }
    if (has(o, "closed") && (r->strict || json_get(o, "closed") != NULL)
        && !chat_read_bool(json_get(o, "closed"), &closed))
        return bad(r, i, "closed must be a boolean");
    p->open = !closed;
    return 0;
}

/* {"url": .., "detail": ..} with nothing else in it, or a string. */
static int
read_image_url(struct chat_reader *r, size_t i, struct json_object *o,
               struct chat_part *p)
{
    struct json_object *image = json_get(o, "image_url"), *url = image;

    p->type = CHAT_IMAGE;
    if (json_object_is_type(image, json_type_object)) {
        url = json_get(image, "url");
        json_object_object_foreach(image, key, value) {
            bool detail = strcmp(key, "detail") == 0;
            if (r->strict && !detail && strcmp(key, "url") != 0)
                return bad(r, i, "image_url holds a key other than url and "
                           "detail");
            if (r->strict && detail && value && !is_string(value))
                return bad(r, i, "detail must be a string");
        }
    }
    if (!is_string(url))
        return bad(r, i, "an image part needs image_url, a string or an "
                   "object with url");
    p->url = json_str(url);
    return 0;
}

/* Base64 without its data: prefix gets one. */
static int
data_url(struct chat_reader *r, struct str base64, struct chat_part *p)
{
    static const char head[] = "data:;base64,";
    size_t n = sizeof(head) - 1 + base64.n;
    char *s = arena_alloc(r->a, n);

    if (s == NULL)
        return ERR_NOMEM;
    memcpy(s, head, sizeof(head) - 1);
    memcpy(s + sizeof(head) - 1, base64.p, base64.n);
    p->url = (struct str){s, n};
    return 0;
}

/* {"image": "base64 or URL"}, {"source": {"data": ..}} or {"source": {"url":
 * ..}}, or image_url under the type "image". */
static int
read_image(struct chat_reader *r, size_t i, struct json_object *o,
           struct chat_part *p)
{
    struct json_object *source = json_get(o, "source");
    struct json_object *data = json_get(source, "data");
    struct json_object *url = json_get(source, "url");

    if (data == NULL && url == NULL)
        url = json_get(o, "image");
    if (data == NULL && !is_string(url))
        return read_image_url(r, i, o, p);
    p->type = CHAT_IMAGE;
    struct str s = json_str(data ? data : url);
    if (s.n == 0)
        return bad(r, i, "the image part is empty");
    if (data == NULL && memchr(s.p, ':', s.n) != NULL) {
        p->url = s;
        return 0;
    }
    return data_url(r, s, p);
}

static const struct part_reader {
    const char *type;
    bool lenient_only;
    int (*read)(struct chat_reader *r, size_t i, struct json_object *o,
                struct chat_part *p);
} readers[] = {
    {"text", false, read_text},
    {"image_url", false, read_image_url},
    {"thinking", false, read_thinking},
    {"input_text", true, read_text},
    {"output_text", true, read_text},
    {"refusal", true, read_refusal},
    {"reasoning", true, read_thinking},
    {"image", true, read_image},
    {"input_image", true, read_image_url},
};

static const char *
allowed(const struct chat *c, enum chat_role role, enum chat_part_type type)
{
    static const char *const thought[] = {
        [CHAT_SYSTEM] = "a system message of this model cannot hold a thought",
        [CHAT_USER] = "a user message cannot hold a thought",
        [CHAT_TOOL] = "a tool message cannot hold a thought",
    };

    if (type == CHAT_THINKING) {
        if (role == CHAT_ASSISTANT
            || (role == CHAT_SYSTEM && c->format->system_thinking))
            return NULL;
        return thought[role];
    }
    if (type != CHAT_IMAGE)
        return NULL;
    if (role == CHAT_ASSISTANT)
        return "an assistant message cannot hold an image";
    if (role == CHAT_TOOL && !c->format->tool_images)
        return "a tool result of this model cannot hold an image";
    if (role == CHAT_SYSTEM && c->mode == CHAT_STRICT)
        return "a system message cannot hold an image";
    return c->images ? NULL : "this model takes no images";
}

static int
read_part(struct chat_reader *r, size_t i, struct json_object *o,
          struct chat_part *p)
{
    if (!r->strict && is_string(o)) {
        p->type = CHAT_TEXT;
        p->text = json_str(o);
        return 0;
    }
    if (!json_object_is_type(o, json_type_object))
        return bad(r, i, "a content part must be an object");
    struct str type = json_str(json_get(o, "type"));
    for (size_t k = 0; k < sizeof(readers) / sizeof(readers[0]); k++)
        if (str_eq(type, str_from(readers[k].type))
            && !(r->strict && readers[k].lenient_only))
            return readers[k].read(r, i, o, p);
    if (type.n == 0)
        return bad(r, i, "a content part needs a type");
    return bad(r, i, "this type of content part is not supported; text, "
               "image_url and thinking are");
}

static int
read_list(struct chat_reader *r, struct json_object *list,
          struct chat_message *m)
{
    size_t n = json_object_array_length(list);

    m->is_list = true;
    m->part = arena_calloc(r->a, n + 1, sizeof(*m->part));
    if (m->part == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++) {
        struct chat_part *p = &m->part[m->n_part];
        int rc = read_part(r, i, json_object_array_get_idx(list, i), p);
        if (rc != 0)
            return rc;
        const char *why = allowed(r->c, m->role, p->type);
        if (why != NULL)
            return bad(r, i, why);
        m->n_part++;
    }
    return 0;
}

/* --- thoughts beside the content ----------------------------------------- */

/* The text of reasoning or reasoning_content, NULL for none; both given and
 * unlike is an error when strict, else reasoning wins unless it is empty. */
static int
find_thought(struct chat_reader *r, struct json_object *o,
             struct json_object **thought)
{
    struct json_object *a = json_get(o, "reasoning");
    struct json_object *b = json_get(o, "reasoning_content");

    if ((a && !is_string(a)) || (b && !is_string(b))) {
        if (r->strict)
            return chat_fail(r->a, r->ce, ERR_FORMAT, "reasoning must be a "
                             "string", "messages.%zu.reasoning", r->index);
        a = is_string(a) ? a : NULL;
        b = is_string(b) ? b : NULL;
    }
    if (r->strict && a && b && !str_eq(json_str(a), json_str(b)))
        return chat_fail(r->a, r->ce, ERR_RANGE, "reasoning and "
                         "reasoning_content differ", "messages.%zu.reasoning",
                         r->index);
    *thought = a && (json_str(a).n > 0 || b == NULL) ? a : b;
    return 0;
}

static bool
has_thought(const struct chat_message *m)
{
    for (size_t i = 0; i < m->n_part; i++)
        if (m->part[i].type == CHAT_THINKING)
            return true;
    return false;
}

/* Puts a thought in front of the content, which becomes a list. */
static int
put_thought(struct chat_reader *r, struct chat_message *m, struct str text)
{
    /* An empty string is no part, but in a list it is one. */
    bool empty = m->has_content && !m->is_list && m->n_part == 0;
    size_t n = m->n_part + (empty ? 2 : 1);
    struct chat_part *part = arena_calloc(r->a, n, sizeof(*part));

    if (part == NULL)
        return ERR_NOMEM;
    if (m->n_part > 0)
        memcpy(part + 1, m->part, m->n_part * sizeof(*part));
    part[0] = (struct chat_part){.type = CHAT_THINKING, .text = text};
    m->part = part;
    m->n_part = n;
    m->is_list = m->has_content = true;
    return 0;
}

/* A format without thoughts shows the rest of the message. */
static void
drop_thoughts(struct chat_message *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n_part; i++)
        if (m->part[i].type != CHAT_THINKING)
            m->part[n++] = m->part[i];
    m->n_part = n;
}

static int
read_thought(struct chat_reader *r, struct json_object *o,
             struct chat_message *m)
{
    struct json_object *thought = NULL;

    int rc = find_thought(r, o, &thought);
    if (rc == 0 && thought && has_thought(m)) {
        if (r->strict)
            return chat_fail(r->a, r->ce, ERR_RANGE, "the message has "
                             "thinking parts and a reasoning field too",
                             "messages.%zu.reasoning", r->index);
        thought = NULL; /* a client that replays both says it twice */
    }
    if (rc == 0 && thought)
        rc = put_thought(r, m, json_str(thought));
    if (rc == 0 && !r->strict && !r->c->thinks)
        drop_thoughts(m);
    return rc;
}

static int
read_nothing(struct chat_reader *r, struct chat_message *m)
{
    if (m->role == CHAT_ASSISTANT || (m->role == CHAT_TOOL && !r->strict))
        return 0;
    return chat_fail(r->a, r->ce, ERR_FORMAT, "the message needs content",
                     "messages.%zu.content", r->index);
}

int
chat_read_content(struct chat_reader *r, struct json_object *o,
                  struct chat_message *m)
{
    struct json_object *content = json_get(o, "content");
    int rc = 0;

    m->has_content = content != NULL;
    if (content == NULL) {
        rc = read_nothing(r, m);
    } else if (is_string(content)) {
        m->part = arena_calloc(r->a, 1, sizeof(*m->part));
        if (m->part == NULL)
            return ERR_NOMEM;
        m->part[0].text = json_str(content);
        m->n_part = m->part[0].text.n > 0;
    } else if (json_object_is_type(content, json_type_array)) {
        rc = read_list(r, content, m);
    } else {
        rc = chat_fail(r->a, r->ce, ERR_FORMAT, "content must be a string or "
                       "a list of parts", "messages.%zu.content", r->index);
    }
    if (rc == 0 && m->role == CHAT_ASSISTANT)
        rc = read_thought(r, o, m);
    return rc;
}
