/*
 * Reads tekken.json.
 *
 * DESIGN. The file is 15 to 20 MB, nearly all of it the `vocab` array. The
 * top-level members are found by a scan for brackets and strings; the small
 * ones are parsed by the json room, and vocab is read in place by a scanner
 * that knows the form of its entries. A tree of the whole file would take ten
 * times the memory and a second.
 *
 * Only the first default_vocab_size - default_num_special_tokens entries are
 * read: the rest must not take part in merges.
 */
#include "config.h"

#include "tok/tekken.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/json.h"

#define SECTION_DEPTH 32
#define VOCAB_MAX (1 << 24)
#define SPECIAL_MAX (1 << 16)

/* --- scanning ------------------------------------------------------------ */

struct scan {
    const char *start, *p, *end;
    struct err *e;
};

static int
unexpected(struct scan *s, const char *what)
{
    if (s->p >= s->end)
        return err_set(s->e, ERR_FORMAT, "the file ends where %s was "
                       "expected", what);
    return err_set(s->e, ERR_FORMAT, "%s expected at byte %zu", what,
                   (size_t)(s->p - s->start));
}

static void
skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' ||
                             *s->p == '\r'))
        s->p++;
}

/* Moves over c and white space in front of it, if it comes next. */
static bool
take(struct scan *s, char c)
{
    skip_space(s);
    if (s->p == s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

/* The inside of a string literal, escapes and all. */
static int
read_string(struct scan *s, struct str *out)
{
    if (!take(s, '"'))
        return unexpected(s, "a string");
    const char *from = s->p;
    for (; s->p < s->end && *s->p != '"'; s->p++)
        if (*s->p == '\\')
            s->p++;
    if (s->p >= s->end) {
        s->p = s->end;
        return unexpected(s, "the end of a string");
    }
    *out = (struct str){from, (size_t)(s->p - from)};
    s->p++;
    return 0;
}

/* Any value; its text in *out. Brackets are counted, not matched. */
static int
skip_value(struct scan *s, struct str *out)
{
    struct str string;
    size_t depth = 0;

    skip_space(s);
    const char *from = s->p;
    while (s->p < s->end) {
        char c = *s->p;
        if (depth == 0 && (c == ',' || c == '}' || c == ']'))
            break;
        if (c == '"') {
            int rc = read_string(s, &string);
            if (rc != 0)
                return rc;
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        s->p++;
    }
    if (depth || s->p == from)
        return unexpected(s, "a value");
    *out = (struct str){from, (size_t)(s->p - from)};
    return 0;
}

/* Moves to the next member of an object whose '{' has been taken: 1 with its
 * key, 0 at the '}'. */
static int
next_member(struct scan *s, bool first, struct str *key)
{
    if (take(s, '}'))
        return 0;
    if (!first && !take(s, ','))
        return unexpected(s, "',' or '}'");
    int rc = read_string(s, key);
    if (rc != 0)
        return rc;
    return take(s, ':') ? 1 : unexpected(s, "':'");
}

/* --- vocab --------------------------------------------------------------- */

static int
sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decodes base64 into out; JSON may have written '/' as '\/'. */
static int
decode_base64(struct str s, struct buf *out)
{
    uint32_t bits = 0;
    size_t digits = 0, pads = 0;

    out->len = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\\' && i + 1 < s.n && s.p[i + 1] == '/')
            i++;
        int x = sextet(s.p[i]);
        if (s.p[i] == '=')
            pads++;
        else if (x < 0 || pads)
            return ERR_FORMAT;
        bits = bits << 6 | (uint32_t)(x < 0 ? 0 : x);
        if (++digits % 4 != 0)
            continue;
        char b[3] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits};
        if (pads > 2 || buf_append(out, b, 3 - pads) != 0)
            return pads > 2 ? ERR_FORMAT : ERR_NOMEM;
        bits = 0;
    }
    return digits % 4 == 0 ? 0 : ERR_FORMAT;
}

static int
read_rank(struct scan *s, size_t *out)
{
    size_t x = 0, digits = 0;

    skip_space(s);
    for (; s->p < s->end && *s->p >= '0' && *s->p <= '9'; s->p++) {
        x = x * 10 + (size_t)(*s->p - '0');
        if (++digits > 9)
            break;
    }
    if (digits == 0 || digits > 9)
        return unexpected(s, "a rank");
    *out = x;
    return 0;
}

/* One entry of vocab; base64 of its bytes in *bytes. */
static int
read_entry(struct scan *s, size_t index, struct str *bytes)
{
    struct str key, skipped;
    size_t rank = SIZE_MAX;
    int more;

    *bytes = (struct str){NULL, 0};
    if (!take(s, '{'))
        return unexpected(s, "an entry of vocab");
    for (bool first = true; (more = next_member(s, first, &key)) == 1;
         first = false) {
        int rc;
        if (str_eq(key, STR("rank")))
            rc = read_rank(s, &rank);
        else if (str_eq(key, STR("token_bytes")))
            rc = read_string(s, bytes);
        else
            rc = skip_value(s, &skipped);
        if (rc != 0)
            return rc;
    }
    if (more < 0)
        return more;
    if (rank != index)
        return err_set(s->e, ERR_FORMAT, "vocab[%zu]: its rank must be %zu",
                       index, index);
    if (bytes->p == NULL)
        return err_set(s->e, ERR_FORMAT, "vocab[%zu]: no token_bytes", index);
    return 0;
}

static int
add_entry(struct vocab *v, struct str base64, struct buf *bytes,
          struct err *e)
{
    size_t i = v->n;
    int rc = decode_base64(base64, bytes);

    if (rc == 0 && i < 256 && (bytes->len != 1 ||
                               (unsigned char)bytes->data[0] != i))
        return err_set(e, ERR_FORMAT, "vocab[%zu] must be the single byte "
                       "%zu", i, i);
    if (rc == ERR_FORMAT || (rc == 0 && bytes->len == 0))
        return err_set(e, ERR_FORMAT, "vocab[%zu]: token_bytes is not base64 "
                       "of at least one byte", i);
    if (rc == 0)
        rc = vocab_add(v, bytes->data, bytes->len);
    return rc ? err_set(e, rc, "out of memory") : 0;
}

/* The first `keep` entries of the array in s. */
static int
read_vocab(struct vocab *v, struct scan *s, size_t keep)
{
    struct buf bytes = {0};
    struct str base64;
    int rc = 0;

    if (!take(s, '['))
        return unexpected(s, "the array vocab");
    while (rc == 0 && v->n < keep && !take(s, ']')) {
        if (v->n > 0 && !take(s, ','))
            rc = unexpected(s, "',' or ']'");
        if (rc == 0)
            rc = read_entry(s, v->n, &base64);
        if (rc == 0)
            rc = add_entry(v, base64, &bytes, s->e);
    }
    buf_free(&bytes);
    if (rc == 0 && v->n < keep)
        rc = err_set(s->e, ERR_FORMAT, "vocab has %zu entries; config asks "
                     "for %zu", v->n, keep);
    return rc ? rc : vocab_index(v, s->e);
}

/* --- the small parts ----------------------------------------------------- */

enum { CONFIG, VOCAB, SPECIAL, IMAGE, MULTIMODAL, SETTINGS, N_SECTIONS };

static const char *const section_name[N_SECTIONS] = {
    "config", "vocab", "special_tokens", "image", "multimodal",
    "model_settings_builder"
};

/* Text of each top-level member, {NULL, 0} where it is absent. */
static int
find_sections(struct scan *s, struct str section[N_SECTIONS])
{
    struct str key, value;
    int more;

    if (!take(s, '{'))
        return unexpected(s, "an object");
    for (bool first = true; (more = next_member(s, first, &key)) == 1;
         first = false) {
        int rc = skip_value(s, &value);
        if (rc != 0)
            return rc;
        for (int i = 0; i < N_SECTIONS; i++)
            if (str_eq(key, str_from(section_name[i])))
                section[i] = value;
    }
    if (more < 0)
        return more;
    skip_space(s);
    return s->p == s->end ? 0 : unexpected(s, "the end of the file");
}

/* Parses a section; *out is NULL when it is absent or null. */
static int
parse_section(const struct str section[N_SECTIONS], int i,
              struct json_object **out, struct err *e)
{
    *out = NULL;
    if (section[i].p == NULL)
        return 0;
    int rc = json_parse(section[i].p, section[i].n, SECTION_DEPTH, 0, out, e);
    if (rc != 0)
        err_prefix(e, "%s: ", section_name[i]);
    return rc;
}

/* Whole number o[key] between min and max. */
static int
get_int(struct json_object *o, const char *where, const char *key, int min,
        int max, int *out, struct err *e)
{
    struct json_object *x = json_get(o, key);
    if (x == NULL || !json_is_integer(x) || json_object_get_int64(x) < min ||
        json_object_get_int64(x) > max)
        return err_set(e, ERR_FORMAT, "%s.%s must be a whole number from %d "
                       "to %d", where, key, min, max);
    *out = (int)json_object_get_int64(x);
    return 0;
}

static int
version_number(const char *version)
{
    static const char *const known[] = {"v1", "v2", "v3", "v7", "v11", "v13",
                                        "v15"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(version, known[i]) == 0)
            return atoi(version + 1);
    return -1;
}

static const char *
keep_string(struct tok *t, struct str s)
{
    return arena_strndup(t->arena, s.p, s.n);
}

static int
read_config(struct tok *t, struct json_object *o, struct err *e)
{
    struct tok_info *info = &t->info;
    struct str version = json_str(json_get(o, "version"));
    struct str pattern = json_str(json_get(o, "pattern"));

    if (version.p == NULL)
        return err_set(e, ERR_FORMAT, "config.version must be a string");
    info->version = keep_string(t, version);
    if (info->version == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (version_number(info->version) < 0)
        return err_set(e, ERR_FORMAT, "config.version '%.20s' is not known",
                       info->version);
    int rc = get_int(o, "config", "default_num_special_tokens", 0,
                     SPECIAL_MAX, &info->n_special, e);
    if (rc == 0)
        rc = get_int(o, "config", "default_vocab_size", info->n_special + 256,
                     VOCAB_MAX, &info->n_vocab, e);
    if (rc == 0 && pattern.p == NULL)
        rc = err_set(e, ERR_FORMAT, "config.pattern must be a string");
    return rc ? rc : split_create(pattern.p, pattern.n, &t->split, e);
}

/* What files up to v7 leave out. */
static const char *const default_special[] = {
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
    "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]",
    "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"
};

static int
set_special(struct tok *t, size_t id, struct str name, struct err *e)
{
    bool was = false;
    const char *p = keep_string(t, name);

    if (p == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    t->special[id] = (struct str){p, name.n};
    if (map_put(t->special_ids, p, name.n, id, &was) != 0)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (was)
        return err_set(e, ERR_FORMAT, "special_tokens: '%.40s' is listed "
                       "twice", p);
    return 0;
}

static int
read_special_list(struct tok *t, struct json_object *list, struct err *e)
{
    if (!json_object_is_type(list, json_type_array))
        return err_set(e, ERR_FORMAT, "special_tokens must be an array");
    size_t n = json_object_array_length(list);
    if (n > (size_t)t->info.n_special)
        return err_set(e, ERR_FORMAT, "special_tokens has %zu entries, more "
                       "than default_num_special_tokens %d", n,
                       t->info.n_special);
    for (size_t i = 0; i < n; i++) {
        struct json_object *x = json_object_array_get_idx(list, i);
        struct str name = json_str(json_get(x, "token_str"));
        char where[48];
        int rank = 0;
        snprintf(where, sizeof where, "special_tokens[%zu]", i);
        int rc = get_int(x, where, "rank", 0, t->info.n_special - 1, &rank, e);
        if (rc == 0 && name.p == NULL)
            rc = err_set(e, ERR_FORMAT, "%s.token_str must be a string",
                         where);
        if (rc == 0 && t->special[rank].p)
            rc = err_set(e, ERR_FORMAT, "%s.rank %d is taken", where, rank);
        if (rc == 0)
            rc = set_special(t, (size_t)rank, name, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Names of all special ids: listed, or by default, or filled up. */
static int
read_special(struct tok *t, struct json_object *list, struct err *e)
{
    size_t n = (size_t)t->info.n_special;
    int rc = 0;

    t->special = arena_calloc(t->arena, n + 1, sizeof *t->special);
    t->special_ids = map_create(n);
    if (t->special == NULL || t->special_ids == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (list) {
        rc = read_special_list(t, list, e);
    } else if (version_number(t->info.version) > 7) {
        rc = err_set(e, ERR_FORMAT, "special_tokens is missing; files of "
                     "version %s must have it", t->info.version);
    } else {
        size_t k = sizeof default_special / sizeof *default_special;
        for (size_t i = 0; rc == 0 && i < k && i < n; i++)
            rc = set_special(t, i, str_from(default_special[i]), e);
    }
    for (size_t i = 0; rc == 0 && i < n; i++) {
        char name[32];
        if (t->special[i].p)
            continue;
        int len = snprintf(name, sizeof name, "<SPECIAL_%zu>", i);
        rc = set_special(t, i, (struct str){name, (size_t)len}, e);
    }
    return rc;
}

static int
read_image(struct tok *t, struct json_object *image,
           struct json_object *multimodal, struct err *e)
{
    struct tok_info *info = &t->info;
    struct json_object *o = image;
    const char *where = "image";

    info->image_merge = 1;
    if (multimodal && json_object_object_length(multimodal) > 0) {
        if (version_number(info->version) > 11)
            return err_set(e, ERR_FORMAT, "multimodal must be called image in "
                           "files of version %s", info->version);
        o = multimodal;
        where = "multimodal";
    }
    if (o == NULL || json_object_object_length(o) == 0)
        return 0;
    info->has_image = true;
    int rc = get_int(o, where, "image_patch_size", 1, 1 << 12,
                     &info->image_patch, e);
    if (rc == 0)
        rc = get_int(o, where, "max_image_size", 1, 1 << 20, &info->image_max,
                     e);
    if (rc == 0 && json_get(o, "spatial_merge_size"))
        rc = get_int(o, where, "spatial_merge_size", 1, 64,
                     &info->image_merge, e);
    return rc;
}

/* --- model_settings_builder ---------------------------------------------- */

static const char effort_where[] = "model_settings_builder.reasoning_effort";

static bool
is_listed(const struct tok_info *info, const char *value)
{
    for (size_t i = 0; i < info->n_effort_values; i++)
        if (strcmp(info->effort_values[i], value) == 0)
            return true;
    return false;
}

static int
read_effort_values(struct tok *t, struct json_object *list, struct err *e)
{
    struct tok_info *info = &t->info;

    if (!json_object_is_type(list, json_type_array))
        return err_set(e, ERR_FORMAT, "%s.values must be an array",
                       effort_where);
    size_t n = json_object_array_length(list);
    const char **value = arena_calloc(t->arena, n + 1, sizeof *value);
    if (value == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    info->effort_values = value;
    for (size_t i = 0; i < n; i++) {
        struct str s = json_str(json_object_array_get_idx(list, i));
        if (s.p == NULL)
            return err_set(e, ERR_FORMAT, "%s.values[%zu] must be a string",
                           effort_where, i);
        const char *p = keep_string(t, s);
        if (p == NULL)
            return err_set(e, ERR_NOMEM, "out of memory");
        if (is_listed(info, p))
            return err_set(e, ERR_FORMAT, "%s.values[%zu] is listed twice",
                           effort_where, i);
        value[info->n_effort_values++] = p;
    }
    return 0;
}

static int
read_effort(struct tok *t, struct json_object *o, struct err *e)
{
    struct tok_info *info = &t->info;
    struct json_object *none = json_get(o, "accepts_none");
    struct str type = json_str(json_get(o, "type"));
    struct str def = json_str(json_get(o, "default"));

    info->has_effort = true;
    if (type.p && !str_eq(type, STR("enum")))
        return err_set(e, ERR_FORMAT, "%s.type must be \"enum\"",
                       effort_where);
    if (none && !json_object_is_type(none, json_type_boolean))
        return err_set(e, ERR_FORMAT, "%s.accepts_none must be true or false",
                       effort_where);
    info->effort_accepts_none = none == NULL || json_object_get_boolean(none);
    int rc = read_effort_values(t, json_get(o, "values"), e);
    if (rc != 0)
        return rc;
    if (info->n_effort_values == 0 && !info->effort_accepts_none)
        return err_set(e, ERR_FORMAT, "%s.values is empty but accepts_none is "
                       "false", effort_where);
    if (json_get(o, "default") == NULL)
        return 0;
    if (def.p == NULL)
        return err_set(e, ERR_FORMAT, "%s.default must be a string or null",
                       effort_where);
    info->effort_default = keep_string(t, def);
    if (info->effort_default == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    if (!info->effort_accepts_none)
        return err_set(e, ERR_FORMAT, "%s.default needs accepts_none",
                       effort_where);
    if (!is_listed(info, info->effort_default))
        return err_set(e, ERR_FORMAT, "%s.default is not one of its values",
                       effort_where);
    return 0;
}

static int
read_settings(struct tok *t, struct json_object *o, struct err *e)
{
    if (o == NULL)
        return 0;
    if (version_number(t->info.version) < 15)
        return err_set(e, ERR_FORMAT, "model_settings_builder does not belong "
                       "in a file of version %s", t->info.version);
    if (!json_object_is_type(o, json_type_object))
        return err_set(e, ERR_FORMAT, "model_settings_builder must be an "
                       "object");
    json_object_object_foreach(o, key, value) {
        if (strcmp(key, "reasoning_effort") != 0 && value)
            return err_set(e, ERR_UNSUPPORTED, "model_settings_builder.%.40s "
                           "is not known", key);
    }
    t->info.has_settings = true;
    struct json_object *effort = json_get(o, "reasoning_effort");
    return effort ? read_effort(t, effort, e) : 0;
}

/* --- all of it ----------------------------------------------------------- */

static int
read_small(struct tok *t, const struct str section[N_SECTIONS],
           struct err *e)
{
    struct json_object *o[N_SECTIONS] = {NULL};
    int rc = 0;

    for (int i = 0; rc == 0 && i < N_SECTIONS; i++)
        if (i != VOCAB)
            rc = parse_section(section, i, &o[i], e);
    if (rc == 0 && o[CONFIG] == NULL)
        rc = err_set(e, ERR_FORMAT, "config is missing");
    if (rc == 0)
        rc = read_config(t, o[CONFIG], e);
    if (rc == 0)
        rc = read_special(t, o[SPECIAL], e);
    if (rc == 0)
        rc = read_image(t, o[IMAGE], o[MULTIMODAL], e);
    if (rc == 0)
        rc = read_settings(t, o[SETTINGS], e);
    for (int i = 0; i < N_SECTIONS; i++)
        json_object_put(o[i]);
    return rc;
}

int
tekken_read(struct tok *t, const char *json, size_t n, struct err *e)
{
    struct scan s = {json, json, json + n, e};
    struct str section[N_SECTIONS] = {{NULL, 0}};

    int rc = find_sections(&s, section);
    if (rc == 0)
        rc = read_small(t, section, e);
    if (rc != 0)
        return rc;
    if (section[VOCAB].p == NULL)
        return err_set(e, ERR_FORMAT, "vocab is missing");
    s.p = section[VOCAB].p;
    s.end = s.p + section[VOCAB].n;
    return read_vocab(&t->vocab, &s,
                      (size_t)(t->info.n_vocab - t->info.n_special));
}
