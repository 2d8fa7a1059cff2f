/*
 * Request bodies, mutated, through the parser, the image loader and the
 * encoders of every version in both modes. A body is refused with a text, or
 * gives ids that are all in the vocabulary; the images of the prompt are where
 * it says.
 */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat.h"
#include "json/json.h"
#include "tests/fuzz/mutate.h"
#include "tests/unit/byte_tok.h"

#define ROUNDS 4000

static const char *const words[] = {
    "null", "\"\"", "[]", "{}", "true", "-1e999", "{\"type\": \"text\"}",
    "\"assistant\"", "\"tool\"", "\"system\"", "\"developer\"", "\"function\"",
    "\"content\": ", "\"tool_calls\": ", "\"arguments\": ", "\"prefix\": true",
    "\"continue_final_message\": true, ", "\"id\": \"x\"", "\"thinking\"",
    "\"closed\": false", "\\ud800", "\\u0000", "\"pattern\": \"(\"",
    "data:image/png;base64,", "https://x/", "\"reasoning\": \"r\", ", NULL
};

static const char *const bodies[] = {
    "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": "
    "\"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\":"
    " \"image_url\", \"image_url\": {\"url\": \"data:image/gif;base64,R0lGODdh"
    "AQABAIABAAAAAP///ywAAAAAAQABAAACAkQBADs=\"}}]}]}",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
    "\"assistant\", \"content\": null, \"reasoning\": \"hm\", \"tool_calls\": "
    "[{\"id\": \"aaaaaaaa1\", \"type\": \"function\", \"function\": {\"name\":"
    " \"f\", \"arguments\": \"{\\\"a\\\": 1.50}\"}}, {\"id\": \"aaaaaaaa2\", "
    "\"type\": \"function\", \"function\": {\"name\": \"g\", \"arguments\": "
    "{}}}]}, {\"role\": \"tool\", \"tool_call_id\": \"aaaaaaaa2\", "
    "\"content\": \"2\"}, {\"role\": \"tool\", \"tool_call_id\": "
    "\"aaaaaaaa1\", \"content\": [{\"type\": \"text\", \"text\": \"1\"}]}, "
    "{\"role\": \"user\", \"content\": \"r\"}]}",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": "
    "\"assistant\", \"content\": [{\"type\": \"thinking\", \"thinking\": "
    "\"t\", \"closed\": true}, {\"type\": \"text\", \"text\": \"x \"}]}], "
    "\"continue_final_message\": true, \"tools\": [{\"type\": \"function\", "
    "\"function\": {\"name\": \"f\", \"description\": \"d\", \"parameters\": "
    "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": [\"string\", "
    "\"null\"], \"pattern\": \"^a+(b|c)$\"}}, \"required\": [\"a\"]}}}], "
    "\"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": "
    "\"f\"}}}",
};

static void
fail(const char *what, const struct buf *body)
{
    fprintf(stderr, "%s:\n%.*s\n", what, (int)body->len, body->data);
    exit(1);
}

static void
check_prompt(const struct chat_prompt *p, const struct buf *body)
{
    if (p->ids.n < 1 || p->ids.id[0] != 1)
        fail("no <s> at the front", body);
    for (size_t i = 0; i < p->ids.n; i++)
        if (p->ids.id[i] < 0 || p->ids.id[i] >= 356)
            fail("an id outside the vocabulary", body);
    for (size_t i = 0; i < p->n_image; i++)
        if (p->image_pos[i] >= p->ids.n || p->ids.id[p->image_pos[i]] != 10
            || p->image[i] == NULL)
            fail("an image is not where it should be", body);
}

static int
encode(const struct chat *c, struct json_object *o, struct arena *a,
       struct chat_prompt *p, struct chat_error *ce)
{
    const struct image_spec spec = {14, 2, 1540, 1 << 16};
    struct chat_request req = {0};

    int rc = chat_parse(c, o, a, &req, ce);
    if (rc == 0)
        rc = chat_load_images(c, &req, &spec, NULL, NULL, a, ce);
    return rc ? rc : chat_encode(c, &req, a, p, ce);
}

static void
try_body(const struct chat *c, const struct buf *body, unsigned long count[2])
{
    struct json_object *o = NULL;
    struct chat_error ce = {0};
    struct chat_prompt p = {0};
    struct arena *a;

    if (json_parse(body->data, body->len, 64, 0, &o, NULL) != 0)
        return;
    a = arena_create(0, 0);
    int rc = encode(c, o, a, &p, &ce);
    if (rc == 0)
        check_prompt(&p, body);
    else if (ce.status != 400 || ce.err.text[0] == '\0')
        fail("refused without a text", body);
    count[rc == 0]++;
    ids_free(&p.ids);
    arena_destroy(a);
    json_object_put(o);
}

int
main(void)
{
    static const char *const versions[] = {"v3", "v7", "v11", "v13", "v15"};
    struct mutate m = {.state = 7, .word = words};
    unsigned long count[2] = {0};
    struct buf body = {0};
    struct tok *tok[5];
    struct chat *chat[10];

    for (int i = 0; i < 10; i++) {
        bool last = i / 2 == 4;
        if (i % 2 == 0)
            tok[i / 2] = byte_tok(versions[i / 2], last ? BYTE_TOK_IMAGE
                                  BYTE_TOK_EFFORT : BYTE_TOK_IMAGE);
        if (tok[i / 2] == NULL
            || chat_create(tok[i / 2], i % 2 ? CHAT_STRICT : CHAT_LENIENT,
                           &chat[i], NULL) != 0)
            return 1;
    }
    for (uint32_t i = 0; i < ROUNDS; i++) {
        const char *text = bodies[i % 3];
        mutate_text(&m, text, strlen(text), &body);
        for (int k = 0; k < 10; k++)
            try_body(chat[k], &body, count);
    }
    for (int i = 0; i < 10; i++)
        chat_free(chat[i]);
    for (int i = 0; i < 5; i++)
        tok_free(tok[i]);
    buf_free(&body);
    printf("%lu refused, %lu encoded\n", count[0], count[1]);
    return count[0] > 1000 && count[1] > 1000 ? 0 : 1;
}
