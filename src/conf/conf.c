/*
 * The configuration file.
 *
 * DESIGN: everything is driven by conf_tab. A row says where the value lives
 * in struct conf, how it is spelt and what is allowed, so that parsing,
 * printing, reloading and the tests of the documentation need no other list.
 * A file is read to its end whatever it holds: an operator sees all mistakes
 * at once.
 */
#include "config.h"

#include "conf/conf.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"
#include "conf/conf_tab.h"

#define FILE_MAX (1 << 20)

static void *
at(const struct conf *c, const struct conf_key *k)
{
    return (char *)c + k->offset;
}

static const struct conf_key *
find(const char *name)
{
    for (size_t i = 0; i < conf_tab_n; i++)
        if (strcmp(conf_tab[i].name, name) == 0)
            return &conf_tab[i];
    return NULL;
}

/* The key most like name, NULL if none is near. */
static const char *
nearest(const char *name)
{
    const char *best = NULL;
    int least = 4;
    for (size_t i = 0; i < conf_tab_n; i++) {
        int d = str_distance(name, conf_tab[i].name);
        if (d < least) {
            least = d;
            best = conf_tab[i].name;
        }
    }
    return best;
}

static int
parse_bool(const char *s, bool *out)
{
    static const char *const words[] = {"off", "on", "false", "true",
                                        "no", "yes", "0", "1"};
    for (int i = 0; i < 8; i++) {
        if (strcasecmp(s, words[i]) == 0) {
            *out = i & 1;
            return 0;
        }
    }
    return ERR_FORMAT;
}

/* Number of a key that is neither string nor bool, in the struct's unit. */
static int
parse_number(const struct conf_key *k, const char *s, double *out)
{
    unsigned long long u;
    char *end;

    switch (k->type) {
    case CONF_COUNT:
    case CONF_SIZE:
        if (str_parse_size(s, &u) != 0)
            return ERR_FORMAT;
        *out = (double)u;
        return 0;
    case CONF_TIME:
        if (str_parse_ms(s, &u) != 0)
            return ERR_FORMAT;
        *out = (double)u;
        return 0;
    case CONF_OCTAL:
        errno = 0;
        *out = (double)strtoul(s, &end, 8);
        return errno || end == s || *end ? ERR_FORMAT : 0;
    case CONF_INT:
    case CONF_SIGNED:
        errno = 0;
        *out = (double)strtoll(s, &end, 10);
        return errno || end == s || *end ? ERR_FORMAT : 0;
    default:
        errno = 0;
        *out = strtod(s, &end);
        return errno || end == s || *end || !isfinite(*out) ? ERR_FORMAT : 0;
    }
}

static void
store_number(void *p, enum conf_type type, double x)
{
    switch (type) {
    case CONF_INT:
        *(int *)p = (int)x;
        break;
    case CONF_NUMBER:
        *(double *)p = x;
        break;
    case CONF_SIGNED:
        *(int64_t *)p = (int64_t)x;
        break;
    default:
        *(uint64_t *)p = (uint64_t)x;
    }
}

static bool
is_choice(const char *choices, const char *value)
{
    struct str rest = str_from(choices), word;
    while ((word = str_word(&rest)).n > 0)
        if (str_eq(word, str_from(value)))
            return true;
    return false;
}

static const char *
expectation(enum conf_type t)
{
    switch (t) {
    case CONF_BOOL: return "on or off";
    case CONF_COUNT: return "a number";
    case CONF_SIZE: return "a size such as 512M or 20G";
    case CONF_TIME: return "a time such as 500ms, 30s or 5m";
    case CONF_OCTAL: return "an octal mode such as 0660";
    case CONF_INT:
    case CONF_SIGNED: return "a whole number";
    default: return "a number";
    }
}

static int
set(struct conf *c, const struct conf_key *k, const char *value,
    struct err *e)
{
    void *p = at(c, k);

    if (k->type == CONF_STRING) {
        if (k->choices && !is_choice(k->choices, value))
            return err_set(e, ERR_RANGE, "%s: '%s' is none of: %s", k->name,
                           value, k->choices);
        free(*(char **)p);
        *(char **)p = *value ? mem_xstrdup(value) : NULL;
        return 0;
    }
    if (k->type == CONF_BOOL) {
        if (parse_bool(value, p) != 0)
            return err_set(e, ERR_FORMAT, "%s: '%s' is not %s", k->name,
                           value, expectation(k->type));
        return 0;
    }
    double x;
    if (parse_number(k, value, &x) != 0)
        return err_set(e, ERR_FORMAT, "%s: '%s' is not %s", k->name, value,
                       expectation(k->type));
    if (x < k->min || x > k->max)
        return err_set(e, ERR_RANGE, "%s: %s is outside %.10g to %.10g",
                       k->name, value, k->min, k->max);
    store_number(p, k->type, x);
    return 0;
}

void
conf_init(struct conf *c)
{
    memset(c, 0, sizeof *c);
    for (size_t i = 0; i < conf_tab_n; i++) {
        struct err e = {0};
        if (conf_tab[i].initial
            && set(c, &conf_tab[i], conf_tab[i].initial, &e) != 0) {
            log_error("default of %s", e.text);
            abort();
        }
    }
}

void
conf_free(struct conf *c)
{
    for (size_t i = 0; i < conf_tab_n; i++) {
        if (conf_tab[i].type == CONF_STRING) {
            char **p = at(c, &conf_tab[i]);
            free(*p);
            *p = NULL;
        }
    }
}

int
conf_set(struct conf *c, const char *key, const char *value, struct err *e)
{
    const struct conf_key *k = find(key);
    if (k != NULL)
        return set(c, k, value, e);
    const char *near = nearest(key);
    return err_set(e, ERR_NOENT, "unknown key '%s'%s%s%s", key,
                   near ? ", did you mean '" : "", near ? near : "",
                   near ? "'?" : "");
}

/* One line of the file, without its newline; comment and blank lines pass. */
static int
parse_line(struct conf *c, struct str line, struct err *e)
{
    char key[64], value[4096];

    line = str_trim(line);
    if (line.n == 0 || line.p[0] == '#')
        return 0;
    const char *eq = memchr(line.p, '=', line.n);
    if (eq == NULL)
        return err_set(e, ERR_FORMAT, "expected 'key = value'");
    struct str k = str_trim((struct str){line.p, (size_t)(eq - line.p)});
    struct str v = str_trim(
        (struct str){eq + 1, line.n - (size_t)(eq + 1 - line.p)});
    /* A comment may follow a value after white space. */
    for (size_t i = 1; i < v.n; i++)
        if (v.p[i] == '#' && (v.p[i - 1] == ' ' || v.p[i - 1] == '\t'))
            v.n = i;
    v = str_trim(v);
    if (k.n >= sizeof key || v.n >= sizeof value)
        return err_set(e, ERR_LIMIT, "line too long");
    memcpy(key, k.p, k.n);
    key[k.n] = 0;
    if (v.n)
        memcpy(value, v.p, v.n);
    value[v.n] = 0;
    return conf_set(c, key, value, e);
}

int
conf_load(struct conf *c, const char *path, FILE *errors, struct err *e)
{
    struct buf file = {0};
    int bad = 0;

    int rc = buf_read_file(&file, path, FILE_MAX);
    if (rc != 0) {
        buf_free(&file);
        return err_set(e, rc, "cannot read %s: %s", path, err_str(rc));
    }
    const char *p = file.data, *end = file.data + file.len;
    for (int line = 1; p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        const char *stop = nl ? nl : end;
        struct err why = {0};
        if (parse_line(c, (struct str){p, (size_t)(stop - p)}, &why) != 0) {
            bad++;
            if (errors)
                fprintf(errors, "%s:%d: %s\n", path, line, why.text);
        }
        p = nl ? nl + 1 : end;
    }
    buf_free(&file);
    if (bad)
        return err_set(e, ERR_FORMAT, "%s: %d error%s", path, bad,
                       bad == 1 ? "" : "s");
    return 0;
}

static int
complain(FILE *errors, const char *text, const char *detail)
{
    if (errors)
        fprintf(errors, "%s%s\n", text, detail ? detail : "");
    return 1;
}

int
conf_check(const struct conf *c, FILE *errors)
{
    struct stat st;
    int bad = 0;
    bool null = c->backend && strncmp(c->backend, "null", 4) == 0;

    if (c->backend == NULL)
        bad += complain(errors, "backend: not set", NULL);
    if (c->model == NULL && !(null && c->tokenizer))
        bad += complain(errors, "model: not set; name the checkpoint "
                        "directory", NULL);
    if (c->model && stat(c->model, &st) != 0)
        bad += complain(errors, "model: no such directory: ", c->model);
    else if (c->model && !S_ISDIR(st.st_mode))
        bad += complain(errors, "model: not a directory: ", c->model);
    if (c->draft && stat(c->draft, &st) != 0)
        bad += complain(errors, "draft: no such directory: ", c->draft);
    if (c->packed && stat(c->packed, &st) != 0)
        bad += complain(errors, "packed: no such file: ", c->packed);
    if (c->tokenizer && stat(c->tokenizer, &st) != 0)
        bad += complain(errors, "tokenizer: no such file: ", c->tokenizer);
    if (c->filters && stat(c->filters, &st) != 0)
        bad += complain(errors, "filters: no such file: ", c->filters);
    if (c->socket == NULL)
        bad += complain(errors, "socket: not set", NULL);
    else if (strlen(c->socket) > 100)
        bad += complain(errors, "socket: path longer than 100 bytes: ",
                        c->socket);
    if (c->think_low > c->think_medium)
        bad += complain(errors, "think_budget_low: larger than "
                        "think_budget_medium", NULL);
    return bad ? ERR_RANGE : 0;
}

bool
conf_reloadable(const char *key)
{
    const struct conf_key *k = find(key);
    return k != NULL && k->reload;
}

/* Value of a key as it would stand in the file; "" when not set. */
static void
format(const struct conf *c, const struct conf_key *k, char *out, size_t n)
{
    const void *p = at(c, k);
    const char *s;

    switch (k->type) {
    case CONF_STRING:
        s = *(char *const *)p;
        snprintf(out, n, "%s", s ? s : "");
        break;
    case CONF_BOOL:
        snprintf(out, n, "%s", *(const bool *)p ? "on" : "off");
        break;
    case CONF_INT:
        snprintf(out, n, "%d", *(const int *)p);
        break;
    case CONF_NUMBER:
        snprintf(out, n, "%.9g", *(const double *)p);
        break;
    case CONF_SIGNED:
        snprintf(out, n, "%" PRId64, *(const int64_t *)p);
        break;
    case CONF_OCTAL:
        snprintf(out, n, "0%" PRIo64, *(const uint64_t *)p);
        break;
    case CONF_TIME:
        snprintf(out, n, "%" PRIu64 "ms", *(const uint64_t *)p);
        break;
    default:
        snprintf(out, n, "%" PRIu64, *(const uint64_t *)p);
    }
}

void
conf_reload(const struct conf *running, struct conf *next)
{
    char old[4200], new[4200];

    for (size_t i = 0; i < conf_tab_n; i++) {
        const struct conf_key *k = &conf_tab[i];
        format(running, k, old, sizeof old);
        format(next, k, new, sizeof new);
        if (strcmp(old, new) == 0)
            continue;
        if (k->reload) {
            log_info("%s: now '%s'", k->name, new);
            continue;
        }
        log_warn("%s: '%s' instead of '%s' needs a restart", k->name, new,
                 old);
        set(next, k, old, NULL);
    }
}

void
conf_print(const struct conf *c, FILE *out)
{
    char value[4200];

    for (size_t i = 0; i < conf_tab_n; i++) {
        format(c, &conf_tab[i], value, sizeof value);
        fprintf(out, "# %s\n%s%s = %s\n\n", conf_tab[i].text,
                *value ? "" : "#", conf_tab[i].name, value);
    }
}
