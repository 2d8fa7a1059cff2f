/* /v1/models: a card for each served name. */
#include "config.h"

#include <inttypes.h>
#include <string.h>

#include "api/http_call.h"
#include "base/str.h"
#include "json/json.h"

static int
put_card(struct buf *out, const struct api_call *c, struct str name)
{
    const struct api *a = c->api;
    struct str root = str_from(c->conf->model ? c->conf->model : "");
    /* The directory's name, not its path: paths are nobody's business. */
    for (size_t i = root.n; i > 0; i--) {
        if (root.p[i - 1] == '/' && i < root.n) {
            root = (struct str){root.p + i, root.n - i};
            break;
        }
    }

    int rc = buf_puts(out, "{\"id\":");
    rc = rc ? rc : json_put_string(out, name.p, name.n);
    rc = rc ? rc : buf_printf(out, ",\"object\":\"model\",\"created\":%" PRId64
                              ",\"owned_by\":\"sirocco\",\"root\":",
                              a->created);
    rc = rc ? rc : json_put_string(out, root.p ? root.p : "", root.n);
    rc = rc ? rc : buf_printf(
        out, ",\"parent\":null,\"max_model_len\":%" PRIu32
        ",\"permission\":[{\"id\":\"modelperm-sirocco\",\"object\":"
        "\"model_permission\",\"created\":%" PRId64
        ",\"allow_create_engine\":false,\"allow_sampling\":true,"
        "\"allow_logprobs\":true,\"allow_search_indices\":false,"
        "\"allow_view\":true,\"allow_fine_tuning\":false,"
        "\"organization\":\"*\",\"group\":null,\"is_blocking\":false}],"
        /* What Mistral's client asks of a card. */
        "\"type\":\"base\",\"capabilities\":{\"completion_chat\":true,"
        "\"completion_fim\":%s,\"function_calling\":true,"
        "\"fine_tuning\":false,\"vision\":%s}}",
        a->parts.max_context, a->created,
        tok_special(a->parts.tok, "[SUFFIX]") >= 0
                && tok_special(a->parts.tok, "[PREFIX]") >= 0
            ? "true" : "false",
        a->parts.has_vision ? "true" : "false");
    return rc;
}

void
models_list(struct api_call *c)
{
    struct buf out = {0};

    int rc = buf_puts(&out, "{\"object\":\"list\",\"data\":[");
    const struct served *served = atomic_load(&c->api->served);
    for (int i = 0; rc == 0 && i < served->n; i++) {
        if (i > 0)
            rc = buf_putc(&out, ',');
        rc = rc ? rc : put_card(&out, c, served->name[i]);
    }
    call_finish(c, &out, rc ? rc : buf_puts(&out, "]}"));
}

void
models_get(struct api_call *c)
{
    struct buf out = {0};

    const struct served *served = atomic_load(&c->api->served);
    for (int i = 0; i < served->n; i++) {
        if (str_eq(c->rest, served->name[i])) {
            call_finish(c, &out, put_card(&out, c, served->name[i]));
            return;
        }
    }
    call_fail(c, 404, "model", "The model does not exist.");
}
