#include "config.h"

#include "api/chat_json.h"

#include <string.h>

#include "json/json.h"

enum reasoning_field
reasoning_field_parse(const char *name)
{
    if (name && strcmp(name, "reasoning") == 0)
        return REASONING_NEW;
    if (name && strcmp(name, "reasoning_content") == 0)
        return REASONING_OLD;
    return REASONING_BOTH;
}

int
chat_put_reasoning(struct buf *out, struct str text, enum reasoning_field field)
{
    int rc = 0;

    if (field != REASONING_OLD) {
        rc = buf_puts(out, "\"reasoning\":");
        rc = rc ? rc : json_put_string(out, text.p, text.n);
    }
    if (rc == 0 && field == REASONING_BOTH)
        rc = buf_putc(out, ',');
    if (rc == 0 && field != REASONING_NEW) {
        rc = buf_puts(out, "\"reasoning_content\":");
        rc = rc ? rc : json_put_string(out, text.p, text.n);
    }
    return rc;
}

static int
put_call(struct buf *out, const struct choice_call *call)
{
    int rc = buf_printf(out, "{\"id\":\"%s\",\"type\":\"function\","
                        "\"function\":{\"name\":", call->id);
    rc = rc ? rc : json_put_string(out, call->name.data, call->name.len);
    rc = rc ? rc : buf_puts(out, ",\"arguments\":");
    rc = rc ? rc : json_put_string(out, call->args.data, call->args.len);
    return rc ? rc : buf_puts(out, "}}");
}

static int
put_calls(struct buf *out, const struct choice *c)
{
    int rc = buf_puts(out, ",\"tool_calls\":[");
    for (int i = 0; rc == 0 && i < c->n_call; i++) {
        rc = i ? buf_putc(out, ',') : 0;
        rc = rc ? rc : put_call(out, &c->call[i]);
    }
    return rc ? rc : buf_putc(out, ']');
}

int
chat_put_message(struct buf *out, const struct choice *c,
                 enum reasoning_field field)
{
    struct str thought = {c->reasoning.data, c->reasoning.len};
    bool none = c->content.len == 0 && (c->n_call > 0 || thought.n > 0);

    int rc = buf_puts(out, "{\"role\":\"assistant\",\"content\":");
    if (rc == 0 && none)
        rc = buf_puts(out, "null");
    else if (rc == 0)
        rc = json_put_string(out, c->content.data, c->content.len);
    if (rc == 0 && thought.n > 0) {
        rc = buf_putc(out, ',');
        rc = rc ? rc : chat_put_reasoning(out, thought, field);
    }
    if (rc == 0 && c->n_call > 0)
        rc = put_calls(out, c);
    return rc ? rc : buf_puts(out, ",\"refusal\":null,\"annotations\":null,"
                              "\"audio\":null,\"function_call\":null}");
}

int
chat_put_call(struct buf *out, const struct choice *c, int call,
              struct str args)
{
    const struct choice_call *k = &c->call[call];
    int rc = buf_printf(out, "\"tool_calls\":[{\"index\":%d,\"id\":\"%s\","
                        "\"type\":\"function\",\"function\":{\"name\":", call,
                        k->id);

    rc = rc ? rc : json_put_string(out, k->name.data, k->name.len);
    rc = rc ? rc : buf_puts(out, ",\"arguments\":");
    rc = rc ? rc : json_put_string(out, args.p, args.n);
    return rc ? rc : buf_puts(out, "}}]");
}

static int
put_args(struct buf *out, int call, struct str args)
{
    int rc = buf_printf(out, "\"tool_calls\":[{\"index\":%d,\"function\":"
                        "{\"arguments\":", call);

    rc = rc ? rc : json_put_string(out, args.p, args.n);
    return rc ? rc : buf_puts(out, "}}]");
}

int
chat_put_delta(struct buf *out, const struct choice *c,
               const struct choice_piece *p, enum reasoning_field field)
{
    struct str text = choice_text(c, p);
    int rc = buf_putc(out, '{');

    if (rc == 0 && p->type == FILTER_TEXT) {
        rc = buf_puts(out, "\"content\":");
        rc = rc ? rc : json_put_string(out, text.p, text.n);
    } else if (rc == 0 && p->type == FILTER_REASONING) {
        rc = chat_put_reasoning(out, text, field);
    } else if (rc == 0 && p->type == FILTER_CALL) {
        rc = chat_put_call(out, c, p->call, (struct str){"", 0});
    } else if (rc == 0) {
        rc = put_args(out, p->call, text);
    }
    return rc ? rc : buf_putc(out, '}');
}
