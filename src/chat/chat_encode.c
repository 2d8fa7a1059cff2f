/*
 * Normalised messages to token ids. Every piece of text is its own call of the
 * tokenizer, so nothing merges across a control token or the border of a part;
 * control ids come from here alone.
 */
#include "config.h"

#include "chat/chat_tab.h"

#include <stdio.h>
#include <string.h>

#include "json/json.h"

struct encoder {
    const struct chat *c;
    const struct chat_request *req;
    struct arena *a;
    struct chat_prompt *out;
    struct chat_error *ce;
    struct str effort;       /* {NULL, 0}: no settings block */
    struct str system;       /* formats that put it into a user message */
};

static int
put(struct encoder *e, enum control c)
{
    return ids_push(&e->out->ids, e->c->id[c]);
}

static int
put_text(struct encoder *e, struct str s)
{
    return s.n ? tok_encode(e->c->tok, s.p, s.n, &e->out->ids) : 0;
}

static int
put_buf(struct encoder *e, int rc, struct buf *b)
{
    if (rc == 0)
        rc = put_text(e, (struct str){b->data, b->len});
    buf_free(b);
    return rc;
}

/* --- parts --------------------------------------------------------------- */

static int
put_image(struct encoder *e, const struct chat_part *p)
{
    struct chat_prompt *out = e->out;
    int rc = 0;

    if (p->cols < 1 || p->rows < 1)
        return chat_failf(e->ce, ERR_STATE, "messages",
                          "an image has not been loaded");
    out->image[out->n_image] = p->image;
    out->image_pos[out->n_image++] = out->ids.n;
    for (int y = 0; y < p->rows && rc == 0; y++) {
        for (int x = 0; x < p->cols && rc == 0; x++)
            rc = put(e, C_IMG);
        if (rc == 0)
            rc = put(e, y + 1 < p->rows ? C_IMG_BREAK : C_IMG_END);
    }
    return rc;
}

static int
put_part(struct encoder *e, const struct chat_part *p)
{
    if (p->type == CHAT_TEXT)
        return put_text(e, p->text);
    if (p->type == CHAT_IMAGE)
        return put_image(e, p);
    int rc = put(e, C_THINK);
    if (rc == 0)
        rc = put_text(e, p->text);
    if (rc == 0 && !p->open)
        rc = put(e, C_THINK_END);
    return rc;
}

static int
put_parts(struct encoder *e, const struct chat_message *m)
{
    int rc = 0;
    for (size_t i = 0; i < m->n_part && rc == 0; i++)
        rc = put_part(e, &m->part[i]);
    return rc;
}

/* --- user ---------------------------------------------------------------- */

static int
dump_tool(struct buf *b, const struct chat_tool *t)
{
    int rc = buf_puts(b, "{\"type\": \"function\", \"function\": {\"name\": ");
    if (rc == 0)
        rc = json_put_string(b, t->name.p, t->name.n);
    if (rc == 0)
        rc = buf_puts(b, ", \"description\": ");
    if (rc == 0)
        rc = json_put_string(b, t->description.p, t->description.n);
    if (rc == 0)
        rc = buf_puts(b, ", \"parameters\": ");
    if (rc == 0)
        rc = t->parameters ? json_dump_python(b, t->parameters, false)
                           : buf_puts(b, "{}");
    return rc ? rc : buf_puts(b, "}}");
}

static int
put_tools(struct encoder *e)
{
    struct buf b = {0};

    if (e->req->n_tool == 0)
        return 0;
    int rc = put(e, C_TOOLS);
    for (size_t i = 0; i < e->req->n_tool && rc == 0; i++) {
        rc = buf_puts(&b, i == 0 ? "[" : ", ");
        if (rc == 0)
            rc = dump_tool(&b, &e->req->tool[i]);
    }
    if (rc == 0)
        rc = buf_putc(&b, ']');
    rc = put_buf(e, rc, &b);
    return rc ? rc : put(e, C_TOOLS_END);
}

static int
put_settings(struct encoder *e)
{
    struct buf b = {0};

    if (e->effort.p == NULL)
        return 0;
    int rc = put(e, C_SETTINGS);
    if (rc == 0)
        rc = buf_puts(&b, "{\"reasoning_effort\": ");
    if (rc == 0)
        rc = json_put_string(&b, e->effort.p, e->effort.n);
    if (rc == 0)
        rc = buf_putc(&b, '}');
    rc = put_buf(e, rc, &b);
    return rc ? rc : put(e, C_SETTINGS_END);
}

/* Plain text joins the system text in front of it in one piece. */
static int
put_system_and_text(struct encoder *e, const struct chat_message *m)
{
    struct buf b = {0};

    int rc = buf_append(&b, e->system.p, e->system.n);
    if (rc == 0)
        rc = buf_puts(&b, "\n\n");
    if (rc == 0 && !m->is_list && m->n_part > 0)
        rc = buf_append(&b, m->part[0].text.p, m->part[0].text.n);
    return put_buf(e, rc, &b);
}

static int
put_user_content(struct encoder *e, const struct chat_message *m, bool last)
{
    if (last && e->system.n > 0) {
        int rc = put_system_and_text(e, m);
        if (rc != 0 || !m->is_list)
            return rc;
    }
    /* An image behind nothing but text comes first. */
    if (m->n_part == 2 && m->part[0].type == CHAT_TEXT
        && m->part[1].type == CHAT_IMAGE) {
        int rc = put_part(e, &m->part[1]);
        return rc ? rc : put_part(e, &m->part[0]);
    }
    return put_parts(e, m);
}

static int
put_user(struct encoder *e, const struct chat_message *m, bool first,
         bool last)
{
    bool tools = e->c->format->tools_first ? first : last;

    int rc = tools ? put_tools(e) : 0;
    if (rc == 0 && tools && e->c->format->settings)
        rc = put_settings(e);
    if (rc == 0)
        rc = put(e, C_INST);
    if (rc == 0)
        rc = put_user_content(e, m, last);
    return rc ? rc : put(e, C_INST_END);
}

/* --- assistant ----------------------------------------------------------- */

static int
put_call_array(struct encoder *e, const struct chat_message *m)
{
    struct buf b = {0};
    int rc = buf_putc(&b, '[');

    for (size_t i = 0; i < m->n_call && rc == 0; i++) {
        const struct chat_call *call = &m->call[i];
        rc = buf_puts(&b, i ? ", {\"name\": " : "{\"name\": ");
        if (rc == 0)
            rc = json_put_string(&b, call->name.p, call->name.n);
        if (rc == 0)
            rc = buf_puts(&b, ", \"arguments\": ");
        if (rc == 0)
            rc = buf_append(&b, call->arguments.p, call->arguments.n);
        if (rc == 0)
            rc = buf_puts(&b, ", \"id\": ");
        if (rc == 0)
            rc = json_put_string(&b, call->id.p, call->id.n);
        if (rc == 0)
            rc = buf_putc(&b, '}');
    }
    if (rc == 0)
        rc = buf_putc(&b, ']');
    if (rc == 0)
        rc = put(e, C_CALLS);
    return put_buf(e, rc, &b);
}

static int
put_call(struct encoder *e, const struct chat_call *call)
{
    int rc = put(e, C_CALLS);
    if (rc == 0)
        rc = put_text(e, call->name);
    if (rc == 0 && e->c->format->call == CALL_ID_ARGS)
        rc = put(e, C_CALL_ID);
    if (rc == 0 && e->c->format->call == CALL_ID_ARGS)
        rc = put_text(e, call->id);
    if (rc == 0)
        rc = put(e, C_ARGS);
    return rc ? rc : put_text(e, call->arguments);
}

static int
put_calls(struct encoder *e, const struct chat_message *m)
{
    int rc = 0;
    if (m->n_call > 0 && e->c->format->call == CALL_ARRAY)
        return put_call_array(e, m);
    for (size_t i = 0; i < m->n_call && rc == 0; i++)
        rc = put_call(e, &m->call[i]);
    return rc;
}

static int
put_assistant(struct encoder *e, const struct chat_message *m)
{
    int rc;

    if (m->n_part == 0 && m->n_call == 0)
        return chat_failf(e->ce, ERR_RANGE, "messages", "an assistant message "
                          "has neither content nor tool calls");
    if (m->n_part > 0 && m->n_call > 0 && e->c->mode == CHAT_STRICT
        && !e->c->format->content_with_calls)
        return chat_failf(e->ce, ERR_RANGE, "messages", "an assistant message "
                          "has both content and tool calls");
    if (m->n_part == 1 && !m->is_list) {
        /* Plain text loses the spaces at its end. */
        struct str s = m->part[0].text;
        while (s.n > 0 && s.p[s.n - 1] == ' ')
            s.n--;
        rc = put_text(e, s);
    } else {
        rc = put_parts(e, m);
    }
    if (rc == 0)
        rc = put_calls(e, m);
    if (rc == 0 && !m->prefix)
        rc = put(e, C_EOS);
    e->out->inside_thought = m->prefix && m->n_call == 0 && m->n_part > 0
        && m->part[m->n_part - 1].type == CHAT_THINKING
        && m->part[m->n_part - 1].open;
    return rc;
}

/* --- system and tool ----------------------------------------------------- */

static int
put_system(struct encoder *e, const struct chat_message *m)
{
    int rc = put(e, C_SYSTEM);
    if (rc == 0)
        rc = put_parts(e, m);
    return rc ? rc : put(e, C_SYSTEM_END);
}

static int
put_json_result(struct encoder *e, const struct chat_message *m)
{
    struct str text = m->n_part > 0 ? m->part[0].text : STR("");
    struct buf b = {0};

    int rc = chat_json_text(e->a, text, &text);
    if (rc == ERR_LIMIT)
        return chat_failf(e->ce, rc, "messages",
                          "a tool result is nested too deep");
    if (rc == 0)
        rc = buf_puts(&b, "{\"content\": ");
    if (rc == 0)
        rc = buf_append(&b, text.p, text.n);
    if (rc == 0)
        rc = buf_puts(&b, ", \"call_id\": ");
    if (rc == 0)
        rc = json_put_string(&b, m->call_id.p, m->call_id.n);
    if (rc == 0)
        rc = buf_putc(&b, '}');
    return put_buf(e, rc, &b);
}

static int
put_result(struct encoder *e, const struct chat_message *m)
{
    int rc = put(e, C_RESULTS);
    if (rc == 0 && e->c->format->result == RESULT_JSON) {
        rc = put_json_result(e, m);
        return rc ? rc : put(e, C_RESULTS_END);
    }
    if (rc == 0 && e->c->format->result == RESULT_ID) {
        rc = put_text(e, m->call_id);
        if (rc == 0)
            rc = put(e, C_CONTENT);
    }
    if (rc == 0)
        rc = put_parts(e, m);
    return rc ? rc : put(e, C_RESULTS_END);
}

/* --- the whole ----------------------------------------------------------- */

static int
bad_effort(struct encoder *e, const char *text)
{
    return chat_failf(e->ce, ERR_RANGE, "reasoning_effort", "%s", text);
}

/* The value of the settings block, by the builder of the tokenizer file. */
static int
choose_effort(struct encoder *e)
{
    const struct tok_info *info = tok_info(e->c->tok);
    struct str effort = e->req->effort;

    if (!e->c->format->settings)
        return effort.p ? bad_effort(e, "this model has no reasoning_effort")
                        : 0;
    if (!info->has_settings && e->c->mode == CHAT_STRICT)
        return bad_effort(e, "the tokenizer has no model_settings_builder");
    if (!info->has_settings || !info->has_effort)
        return 0;
    if (effort.p == NULL) {
        if (!info->effort_accepts_none)
            return bad_effort(e, "reasoning_effort must be set for this "
                              "model");
        e->effort = str_from(info->effort_default);
        return 0;
    }
    for (size_t i = 0; i < info->n_effort_values; i++)
        if (str_eq(effort, str_from(info->effort_values[i]))) {
            e->effort = effort;
            return 0;
        }
    return bad_effort(e, "reasoning_effort is not one of this model's "
                      "values");
}

static int
reserve_images(struct encoder *e)
{
    size_t n = 0;
    for (size_t i = 0; i < e->req->n_message; i++)
        for (size_t k = 0; k < e->req->message[i].n_part; k++)
            n += e->req->message[i].part[k].type == CHAT_IMAGE;
    e->out->n_image = 0;
    e->out->image = arena_calloc(e->a, n + 1, sizeof(*e->out->image));
    e->out->image_pos = arena_calloc(e->a, n + 1, sizeof(*e->out->image_pos));
    return e->out->image && e->out->image_pos ? 0 : ERR_NOMEM;
}

static int
put_messages(struct encoder *e, const struct chat_normal *normal)
{
    size_t first = SIZE_MAX, last = SIZE_MAX;
    int rc = 0;

    for (size_t i = 0; i < normal->n; i++)
        if (normal->message[i].role == CHAT_USER) {
            first = first == SIZE_MAX ? i : first;
            last = i;
        }
    for (size_t i = 0; i < normal->n && rc == 0; i++) {
        const struct chat_message *m = &normal->message[i];
        switch (m->role) {
        case CHAT_SYSTEM:
            rc = put_system(e, m);
            break;
        case CHAT_USER:
            rc = put_user(e, m, i == first, i == last);
            break;
        case CHAT_ASSISTANT:
            rc = put_assistant(e, m);
            break;
        case CHAT_TOOL:
            rc = put_result(e, m);
            break;
        }
    }
    return rc;
}

int
chat_encode(const struct chat *c, const struct chat_request *req,
            struct arena *a, struct chat_prompt *out, struct chat_error *ce)
{
    struct encoder e = {.c = c, .req = req, .a = a, .out = out, .ce = ce};
    struct chat_turns turns = {0};
    struct chat_normal normal = {0};

    out->inside_thought = false;
    int rc = c->mode == CHAT_STRICT ? chat_check(c, req, a, &turns, ce)
                                    : chat_mend(c, req, a, &turns, ce);
    if (rc == 0)
        rc = choose_effort(&e);
    if (rc == 0)
        rc = chat_normalise(c, &turns, a, &normal);
    if (rc == 0)
        rc = reserve_images(&e);
    e.system = normal.system;
    if (rc == 0)
        rc = put(&e, C_BOS);
    if (rc == 0)
        rc = put_messages(&e, &normal);
    return rc;
}
