#include "config.h"

#include "chat/chat.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat_tab.h"
#include "json/json.h"

#define ARGUMENT_DEPTH 512 /* nesting of tool call arguments */

/* Looks up the control tokens; every one the format needs must be there. */
static int
find_controls(struct chat *c, struct err *e)
{
    for (int i = 0; i < N_CONTROL; i++) {
        c->id[i] = tok_special(c->tok, chat_control_name(i));
        if (c->id[i] < 0 && chat_control_needed(c->format, i))
            return err_set(e, ERR_MISMATCH,
                           "the tokenizer says it is version %s but has no "
                           "%s token", c->format->version,
                           chat_control_name(i));
    }
    c->thinks = c->format->thinking && c->id[C_THINK] >= 0
                && c->id[C_THINK_END] >= 0;
    c->images = tok_info(c->tok)->has_image;
    if (c->images && (c->id[C_IMG] < 0 || c->id[C_IMG_BREAK] < 0
                      || c->id[C_IMG_END] < 0))
        return err_set(e, ERR_MISMATCH, "the tokenizer has an image block but "
                       "no [IMG], [IMG_BREAK] or [IMG_END] token");
    return 0;
}

int
chat_create(const struct tok *t, enum chat_mode mode, struct chat **out,
            struct err *e)
{
    struct chat *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    c->tok = t;
    c->mode = mode;
    c->format = chat_format_find(tok_info(t)->version);
    int rc = c->format ? find_controls(c, e)
                       : err_set(e, ERR_UNSUPPORTED,
                                 "no prompt format for tokenizer version %s",
                                 tok_info(t)->version);
    if (rc != 0) {
        free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void
chat_free(struct chat *c)
{
    free(c);
}

bool
chat_has_reasoning(const struct chat *c)
{
    return c->format->settings && tok_info(c->tok)->has_effort;
}

/* --- shared by the room -------------------------------------------------- */

int
chat_fail(struct arena *a, struct chat_error *ce, int code,
          const char *message, const char *path, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, path);
    int n = vsnprintf(text, sizeof(text), path, ap);
    va_end(ap);
    if (n >= (int)sizeof(text))
        n = sizeof(text) - 1;
    ce->status = 400;
    ce->schema = code == ERR_FORMAT;
    ce->param = arena_strndup(a, text, n < 0 ? 0 : (size_t)n);
    return err_set(&ce->err, code, "%s", message);
}

int
chat_failf(struct chat_error *ce, int code, const char *path,
           const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    ce->status = 400;
    ce->schema = code == ERR_FORMAT;
    ce->param = path;
    return err_set(&ce->err, code, "%s", text);
}

static bool
is_alnum(char ch)
{
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')
           || (ch >= '0' && ch <= '9');
}

bool
chat_name_valid(struct str name, bool strict)
{
    if (strict && name.n > 1 && name.p[name.n - 1] == '\n')
        name.n--;
    if (name.n < 1 || name.n > 64)
        return false;
    for (size_t i = 0; i < name.n; i++)
        if (!is_alnum(name.p[i]) && name.p[i] != '_' && name.p[i] != '-')
            return false;
    return true;
}

bool
chat_id_valid(struct str id)
{
    /* As with names, the reference's expression lets a line feed follow. */
    if (id.n == 10 && id.p[9] == '\n')
        id.n--;
    if (id.n != 9)
        return false;
    for (size_t i = 0; i < id.n; i++)
        if (!is_alnum(id.p[i]))
            return false;
    return true;
}

struct str
chat_take(struct arena *a, struct buf *b)
{
    struct str s = {arena_strndup(a, b->data ? b->data : "", b->len), b->len};
    buf_free(b);
    return s;
}

int
chat_json_text(struct arena *a, struct str text, struct str *out)
{
    struct json_object *o = NULL;
    struct buf b = {0};

    if (text.n == 0) {
        *out = STR("{}");
        return 0;
    }
    int rc = json_parse(text.p, text.n, ARGUMENT_DEPTH,
                        JSON_NAN | JSON_BOUNDED, &o, NULL);
    if (rc == 0)
        rc = json_dump_python(&b, o, false);
    else if (rc == ERR_FORMAT)
        rc = json_put_string(&b, text.p, text.n);
    json_object_put(o);
    if (rc != 0) {
        buf_free(&b);
        return rc;
    }
    *out = chat_take(a, &b);
    return out->p ? 0 : ERR_NOMEM;
}
