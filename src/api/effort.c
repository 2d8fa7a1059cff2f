#include "config.h"

#include "api/effort.h"

#include <string.h>

#include "json/json.h"

/* The model knows two levels; the ones between are high with a budget. */
static const struct {
    const char *level, *value;
    enum { WHOLE, LOW, MEDIUM } budget;
} levels[] = {
    {"none", "none", WHOLE}, {"minimal", "none", WHOLE},
    {"low", "high", LOW},    {"medium", "high", MEDIUM},
    {"high", "high", WHOLE}, {"xhigh", "high", WHOLE},
    {"max", "high", WHOLE},
};

/* Level given by a boolean of from; absent leaves *level alone. */
static int
read_switch(struct api_call *c, struct json_object *from, const char *key,
            struct str *level)
{
    bool on = false;

    if (json_get(from, key) == NULL)
        return 0;
    if (field_bool(c, from, key, &on) != 0)
        return -1;
    *level = on ? STR("high") : STR("none");
    return 0;
}

static int
read_object(struct api_call *c, const char *key, struct json_object **out)
{
    *out = json_get(c->body, key);
    if (*out && !json_object_is_type(*out, json_type_object))
        return field_type_error(c, key, "an object");
    return 0;
}

/* The level by rising precedence. */
static int
read_level(struct api_call *c, struct str *level)
{
    struct json_object *kwargs, *reasoning;

    if (read_object(c, "chat_template_kwargs", &kwargs) != 0
        || read_object(c, "reasoning", &reasoning) != 0
        || read_switch(c, kwargs, "thinking", level) != 0
        || read_switch(c, kwargs, "enable_thinking", level) != 0
        || field_str(c, kwargs, "reasoning_effort", level) != 0
        || read_switch(c, reasoning, "enabled", level) != 0
        || field_str(c, reasoning, "effort", level) != 0)
        return -1;
    return field_str(c, c->body, "reasoning_effort", level);
}

int
effort_read(struct api_call *c, int64_t budget, struct effort *out)
{
    const size_t n = sizeof levels / sizeof *levels;
    bool knows = chat_has_reasoning(c->api->parts.chat);
    struct str level = {NULL, 0};
    size_t i = 0;

    *out = (struct effort){{NULL, 0}, -1, knows ? "none" : NULL};
    if (read_level(c, &level) != 0)
        return -1;
    if (level.p) {
        while (i < n && !str_eq(level, str_from(levels[i].level)))
            i++;
        if (i == n)
            return call_fail(c, STATUS_SCHEMA, "reasoning_effort",
                             "reasoning_effort must be one of none, minimal, "
                             "low, medium, high, xhigh and max");
        if (c->conf->strict_effort && strcmp(levels[i].level,
                                             levels[i].value) != 0)
            return call_fail(c, 400, "reasoning_effort", "this model's "
                             "reasoning_effort is either none or high");
        if (levels[i].budget == LOW)
            out->budget = (int64_t)c->conf->think_low;
        if (levels[i].budget == MEDIUM)
            out->budget = (int64_t)c->conf->think_medium;
        if (knows) {
            out->value = str_from(levels[i].value);
            out->report = levels[i].value;
        }
    }
    if (budget != FIELD_NONE)
        out->budget = budget;
    return 0;
}
