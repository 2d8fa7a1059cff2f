#include "config.h"

#include "ctl/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/json.h"

#define LINE_DEPTH 128

int
command_fail(const char *name, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "siroccoctl %s: ", name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return EXIT_FAILED;
}

int
command_options(int argc, char **argv, const struct option_row *rows)
{
    for (int i = 1; i < argc; i++) {
        const struct option_row *r = rows;
        if (strncmp(argv[i], "--", 2) == 0)
            while (r->name && strcmp(r->name, argv[i] + 2) != 0)
                r++;
        if (strncmp(argv[i], "--", 2) != 0 || r->name == NULL) {
            command_fail(argv[0], "unknown argument '%s'; see siroccoctl "
                         "help %s", argv[i], argv[0]);
            return EXIT_USAGE;
        }
        if (r->value == NULL) {
            *r->flag = true;
        } else if (i + 1 == argc) {
            command_fail(argv[0], "--%s needs a value", r->name);
            return EXIT_USAGE;
        } else {
            *r->value = argv[++i];
        }
    }
    return EXIT_OK;
}

int
command_number(const char *option, const char *text, long long min,
               long long max, long long *out)
{
    char *end;

    if (text == NULL)
        return EXIT_OK;
    errno = 0;
    long long x = strtoll(text, &end, 10);
    if (errno || end == text || *end || x < min || x > max) {
        fprintf(stderr, "siroccoctl: --%s: '%s' is no number from %lld to "
                "%lld\n", option, text, min, max);
        return EXIT_USAGE;
    }
    *out = x;
    return EXIT_OK;
}

static int
answer_line(const char *line, size_t n, line_fn fn, void *arg,
            struct buf *out)
{
    struct json_object *in = NULL;
    struct err e = {0};

    out->len = 0;
    int rc = json_parse(line, n, LINE_DEPTH, 0, &in, &e);
    if (rc == 0)
        rc = fn(arg, in, out, &e);
    json_object_put(in);
    if (rc != 0 && (*e.text || out->len == 0)) {
        out->len = 0;
        buf_puts(out, "{\"error\": ");
        const char *text = *e.text ? e.text : err_str(rc);
        json_put_string(out, text, strlen(text));
        buf_putc(out, '}');
    }
    return rc;
}

int
command_lines(const char *name, line_fn fn, void *arg)
{
    struct buf out = {0};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int status = EXIT_OK;

    while ((n = getline(&line, &cap, stdin)) >= 0) {
        if (n > 0 && line[n - 1] == '\n')
            n--;
        if (n == 0)
            continue;
        if (answer_line(line, (size_t)n, fn, arg, &out) != 0)
            status = EXIT_FAILED;
        fwrite(out.data, 1, out.len, stdout);
        putchar('\n');
        if (fflush(stdout) != 0) {
            status = command_fail(name, "cannot write: %s", strerror(errno));
            break;
        }
    }
    free(line);
    buf_free(&out);
    return status;
}

int
command_ids(struct json_object *o, struct ids *out, struct err *e)
{
    if (!json_object_is_type(o, json_type_array))
        return err_set(e, ERR_FORMAT, "expected an array of token ids");
    size_t n = json_object_array_length(o);
    for (size_t i = 0; i < n; i++) {
        struct json_object *x = json_object_array_get_idx(o, i);
        int64_t id = json_is_integer(x) ? json_object_get_int64(x) : -1;
        if (id < 0 || id > INT32_MAX)
            return err_set(e, ERR_FORMAT, "element %zu is no token id", i);
        if (ids_push(out, (int32_t)id) != 0)
            return err_set(e, ERR_NOMEM, "out of memory");
    }
    return 0;
}

int
command_put_ids(struct buf *out, const int32_t *id, size_t n)
{
    int rc = buf_putc(out, '[');
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = buf_printf(out, i ? ", %d" : "%d", (int)id[i]);
    return rc ? rc : buf_putc(out, ']');
}
