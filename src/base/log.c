#include "config.h"

#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static const char *const level_name[] = {"error", "warn", "info", "debug"};
/* Priorities of syslog(3): error, warning, informational, debug. */
static const int level_priority[] = {3, 4, 6, 7};

static atomic_int level_max = LOG_INFO;
static atomic_int journal;

void
log_set_level(enum log_level level)
{
    atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

int
log_level_parse(const char *name)
{
    for (int i = 0; i < (int)(sizeof level_name / sizeof *level_name); i++)
        if (strcmp(name, level_name[i]) == 0)
            return i;
    return -1;
}

void
log_set_journal(int on)
{
    atomic_store_explicit(&journal, on != 0, memory_order_relaxed);
}

static int
put_head(char *out, size_t size, enum log_level level)
{
    if (atomic_load_explicit(&journal, memory_order_relaxed))
        return snprintf(out, size, "<%d>", level_priority[level]);
    struct timespec t;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &tm);
    size_t n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
    return (int)n + snprintf(out + n, size - n, ".%03dZ %s ",
                             (int)(t.tv_nsec / 1000000), level_name[level]);
}

void
log_line(enum log_level level, const char *fmt, ...)
{
    if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed))
        return;
    char line[LINE_MAX_BYTES];
    int n = put_head(line, sizeof line, level);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    size_t len = (size_t)n + (m > 0 ? (size_t)m : 0);
    if (len > sizeof line - 1)
        len = sizeof line - 1;
    /* One event is one line: what a client sent must not forge others. */
    for (size_t i = (size_t)n; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = ' ';
    line[len++] = '\n';
    /* A log that cannot be written has nobody to report to. */
    ssize_t ignored = write(STDERR_FILENO, line, len);
    (void)ignored;
}
