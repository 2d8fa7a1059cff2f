/* siroccoctl tokenize and detokenize: text, chats and ids, by line. */
#include "config.h"

#include <string.h>

#include "api/http_call.h"
#include "chat/chat.h"
#include "ctl/command.h"
#include "json/json.h"
#include "tok/tok.h"

struct tokenize {
    struct tok *tok;
    struct chat *chat;     /* with --chat */
    bool strict;
    bool keep_special;
};

static int
tokenize_text(void *arg, struct json_object *in, struct buf *out,
              struct err *e)
{
    struct tokenize *t = arg;
    struct ids ids = {0};

    if (!json_object_is_type(in, json_type_string))
        return err_set(e, ERR_FORMAT, "expected a JSON string");
    struct str s = json_str(in);
    int rc = tok_encode(t->tok, s.p, s.n, &ids);
    if (rc == 0)
        rc = command_put_ids(out, ids.id, ids.n);
    ids_free(&ids);
    return rc;
}

/* The levels as the server maps them; strict: as the reference takes them. */
static int
read_effort(const struct tokenize *t, struct json_object *in,
            struct chat_request *req, struct chat_error *ce)
{
    struct chat_effort effort;

    if (t->strict) {
        req->effort = json_str(json_get(in, "reasoning_effort"));
        return 0;
    }
    int rc = chat_effort(in, &effort, ce);
    if (rc == 0 && chat_has_reasoning(t->chat))
        req->effort = effort.value;
    return rc;
}

static int
encode_body(struct tokenize *t, struct json_object *in, struct arena *a,
            struct chat_prompt *p, struct chat_error *ce)
{
    const struct tok_info *info = tok_info(t->tok);
    struct chat_request req = {0};

    int rc = chat_parse(t->chat, in, a, &req, ce);
    if (rc != 0)
        return rc;
    rc = read_effort(t, in, &req, ce);
    if (rc != 0)
        return rc;
    if (info->has_image) {
        struct image_spec spec = {info->image_patch, info->image_merge,
                                  info->image_max, IMAGE_PIXELS_MAX};
        rc = chat_load_images(t->chat, &req, &spec, NULL, NULL, a, ce);
        if (rc != 0)
            return rc;
    }
    return chat_encode(t->chat, &req, a, p, ce);
}

static int
tokenize_chat(void *arg, struct json_object *in, struct buf *out,
              struct err *e)
{
    struct tokenize *t = arg;
    struct chat_prompt p = {0};
    struct chat_error ce = {0};
    struct arena *a = arena_create(0, 0);

    if (a == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    int rc = encode_body(t, in, a, &p, &ce);
    if (rc == 0)
        rc = command_put_ids(out, p.ids.id, p.ids.n);
    else if (rc != ERR_NOMEM
             && error_put(out, ce.schema ? STATUS_SCHEMA : ce.status,
                          ce.param, ce.err.text) != 0)
        rc = ERR_NOMEM;
    ids_free(&p.ids);
    arena_destroy(a);
    return rc;
}

static int
detokenize_ids(void *arg, struct json_object *in, struct buf *out,
               struct err *e)
{
    struct tokenize *t = arg;
    struct ids ids = {0};
    struct buf text = {0};

    int rc = command_ids(in, &ids, e);
    if (rc == 0) {
        rc = tok_decode(t->tok, ids.id, ids.n,
                        t->keep_special ? TOK_KEEP : TOK_IGNORE, &text);
        if (rc == ERR_RANGE)
            err_set(e, rc, "an id is not in the vocabulary");
    }
    if (rc == 0)
        rc = json_put_string(out, text.data, text.len);
    ids_free(&ids);
    buf_free(&text);
    return rc;
}

static int
open_tokenizer(const char *name, const char *file, struct tok **out)
{
    struct err e = {0};

    if (file == NULL) {
        command_fail(name, "--tokenizer FILE is needed");
        return EXIT_USAGE;
    }
    if (tok_load(file, out, &e) != 0)
        return command_fail(name, "%s", e.text);
    return EXIT_OK;
}

int
tokenize_command(int argc, char **argv)
{
    const char *file = NULL;
    struct tokenize t = {0};
    bool chat = false;
    const struct option_row rows[] = {
        {"tokenizer", &file, NULL},
        {"chat", NULL, &chat},
        {"strict", NULL, &t.strict},
        {NULL}
    };
    struct err e = {0};

    int rc = command_options(argc, argv, rows);
    if (rc == EXIT_OK)
        rc = open_tokenizer(argv[0], file, &t.tok);
    if (rc != EXIT_OK)
        return rc;
    if (chat && chat_create(t.tok, t.strict ? CHAT_STRICT : CHAT_LENIENT,
                            &t.chat, &e) != 0)
        rc = command_fail(argv[0], "%s", e.text);
    else
        rc = command_lines(argv[0], chat ? tokenize_chat : tokenize_text, &t);
    chat_free(t.chat);
    tok_free(t.tok);
    return rc;
}

int
detokenize_command(int argc, char **argv)
{
    const char *file = NULL;
    struct tokenize t = {0};
    const struct option_row rows[] = {
        {"tokenizer", &file, NULL},
        {"keep-special", NULL, &t.keep_special},
        {NULL}
    };

    int rc = command_options(argc, argv, rows);
    if (rc == EXIT_OK)
        rc = open_tokenizer(argv[0], file, &t.tok);
    if (rc != EXIT_OK)
        return rc;
    rc = command_lines(argv[0], detokenize_ids, &t);
    tok_free(t.tok);
    return rc;
}
