#include "config.h"

#include "api/constraint.h"

#include "json/json.h"

/* Answers 501 for any field that asks for a form of the output. */
static int
refuse(struct api_call *c)
{
    static const char *const field[] = {
        "structured_outputs", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "guided_json_object", "json_schema", "regex", "ebnf",
    };
    struct json_object *format = json_get(c->body, "response_format");

    for (size_t i = 0; i < sizeof field / sizeof *field; i++)
        if (json_get(c->body, field[i]))
            return call_fail(c, 501, field[i], "structured output is not "
                             "supported");
    if (format && !json_object_is_type(format, json_type_object))
        return field_type_error(c, "response_format", "an object");
    if (format && !str_eq(json_str(json_get(format, "type")), STR("text")))
        return call_fail(c, 501, "response_format", "structured output is not "
                         "supported");
    return 0;
}

int
constraint_chat(struct api_call *c, const struct chat_job *j,
                struct grammar **out)
{
    (void)j;
    *out = NULL;
    return refuse(c);
}

int
constraint_text(struct api_call *c, struct grammar **out)
{
    *out = NULL;
    return refuse(c);
}
