/* The levels of reasoning_effort under all the names that clients use. */
#include "config.h"

#include "chat/chat_tab.h"

#include <string.h>

#include "json/json.h"

static const struct {
    const char *level, *value;
    int budget;
} levels[] = {
    {"none", "none", CHAT_THINK_WHOLE}, {"minimal", "none", CHAT_THINK_WHOLE},
    {"low", "high", CHAT_THINK_LOW},    {"medium", "high", CHAT_THINK_MEDIUM},
    {"high", "high", CHAT_THINK_WHOLE}, {"xhigh", "high", CHAT_THINK_WHOLE},
    {"max", "high", CHAT_THINK_WHOLE},
};

static int
set_level(struct chat_effort *out, const char *param, struct str level,
          struct chat_error *ce)
{
    size_t i = 0, n = sizeof levels / sizeof *levels;

    while (i < n && !str_eq(level, str_from(levels[i].level)))
        i++;
    if (i == n)
        return chat_failf(ce, ERR_FORMAT, param, "%s must be one of none, "
                          "minimal, low, medium, high, xhigh and max, or a "
                          "number", param);
    *out = (struct chat_effort){
        .value = str_from(levels[i].value), .budget = levels[i].budget,
        .exact = strcmp(levels[i].level, levels[i].value) == 0,
        .param = param};
    return 0;
}

/* SGLang's numbers, a third of their range a level. */
static int
set_number(struct chat_effort *out, const char *param, double x,
           struct chat_error *ce)
{
    if (!(x >= 0 && x <= 0.99))
        return chat_failf(ce, ERR_RANGE, param, "%s as a number must be 0 to "
                          "0.99", param);
    return set_level(out, param, x == 0     ? STR("none")
                                 : x <= 0.33 ? STR("low")
                                 : x <= 0.66 ? STR("medium")
                                             : STR("high"), ce);
}

/* A level at key; absent leaves *out alone. */
static int
read_level(struct json_object *from, const char *key, const char *param,
           struct chat_effort *out, struct chat_error *ce)
{
    struct json_object *o = json_get(from, key);

    if (o == NULL)
        return 0;
    if (json_object_is_type(o, json_type_int)
        || json_object_is_type(o, json_type_double))
        return set_number(out, param, json_object_get_double(o), ce);
    if (!json_object_is_type(o, json_type_string))
        return chat_failf(ce, ERR_FORMAT, param, "%s must be a string or a "
                          "number", param);
    return set_level(out, param, json_str(o), ce);
}

/* On or off at key. */
static int
read_switch(struct json_object *from, const char *key, const char *param,
            struct chat_effort *out, struct chat_error *ce)
{
    struct json_object *o = json_get(from, key);

    if (o == NULL)
        return 0;
    if (!json_object_is_type(o, json_type_boolean))
        return chat_failf(ce, ERR_FORMAT, param, "%s must be true or false",
                          param);
    return set_level(out, param, json_object_get_boolean(o) ? STR("high")
                                                            : STR("none"),
                     ce);
}

static int
read_object(struct json_object *body, const char *key,
            struct json_object **out, struct chat_error *ce)
{
    *out = json_get(body, key);
    if (*out && !json_object_is_type(*out, json_type_object))
        return chat_failf(ce, ERR_FORMAT, key, "%s must be an object", key);
    return 0;
}

int
chat_effort(struct json_object *body, struct chat_effort *out,
            struct chat_error *ce)
{
    struct json_object *kwargs, *reasoning;

    *out = (struct chat_effort){.value = {NULL, 0}};
    int rc = read_object(body, "chat_template_kwargs", &kwargs, ce);
    rc = rc ? rc : read_object(body, "reasoning", &reasoning, ce);
    /* By rising precedence. */
    rc = rc ? rc : read_switch(kwargs, "thinking",
                               "chat_template_kwargs.thinking", out, ce);
    rc = rc ? rc : read_switch(kwargs, "enable_thinking",
                               "chat_template_kwargs.enable_thinking", out,
                               ce);
    rc = rc ? rc : read_level(kwargs, "reasoning_effort",
                              "chat_template_kwargs.reasoning_effort", out,
                              ce);
    rc = rc ? rc : read_switch(reasoning, "enabled", "reasoning.enabled", out,
                               ce);
    rc = rc ? rc : read_level(reasoning, "effort", "reasoning.effort", out,
                              ce);
    return rc ? rc : read_level(body, "reasoning_effort", "reasoning_effort",
                                out, ce);
}
