#include "config.h"

#include "metrics/process.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int
put(struct buf *out, const char *name, const char *type, const char *help,
    double value)
{
    return buf_printf(out, "# HELP process_%s %s\n# TYPE process_%s %s\n"
                      "process_%s %.17g\n", name, help, name, type, name,
                      value);
}

/* Seconds since 1970 at which the machine started; 0 when unknown. */
static double
boot_time(void)
{
    char line[256];
    unsigned long long t = 0;
    FILE *f = fopen("/proc/stat", "re");

    if (f == NULL)
        return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "btime %llu", &t) == 1)
            break;
    fclose(f);
    return (double)t;
}

/* Fields 14, 15, 22, 23 and 24 of proc(5)'s stat: ticks in user and system
 * mode, start in ticks since boot, bytes of address space, pages resident. */
static int
put_stat(struct buf *out)
{
    char text[1024];
    unsigned long long user, system, start, size, pages;
    double tick = (double)sysconf(_SC_CLK_TCK), boot = boot_time();
    FILE *f = fopen("/proc/self/stat", "re");

    if (f == NULL)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    /* The program's name is in brackets and may have some itself. */
    const char *p = strrchr(text, ')');
    if (p == NULL || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u "
                            "%*u %llu %llu %*d %*d %*d %*d %*d %*d %llu %llu "
                            "%llu", &user, &system, &start, &size, &pages)
                         != 5)
        return 0;
    int rc = put(out, "cpu_seconds_total", "counter", "CPU time used.",
                 (double)(user + system) / tick);
    rc = rc ? rc : put(out, "resident_memory_bytes", "gauge",
                       "Memory in use.",
                       (double)pages * (double)sysconf(_SC_PAGESIZE));
    rc = rc ? rc : put(out, "virtual_memory_bytes", "gauge",
                       "Address space in use.", (double)size);
    if (rc == 0 && boot > 0)
        rc = put(out, "start_time_seconds", "gauge",
                 "When it started, since 1970.", boot + (double)start / tick);
    return rc;
}

static int
put_files(struct buf *out)
{
    struct rlimit l;
    int n = -3; /* ".", ".." and the directory itself */
    DIR *d = opendir("/proc/self/fd");

    if (d == NULL)
        return 0;
    while (readdir(d))
        n++;
    closedir(d);
    int rc = put(out, "open_fds", "gauge", "Open files.", n);
    if (rc == 0 && getrlimit(RLIMIT_NOFILE, &l) == 0
        && l.rlim_cur != RLIM_INFINITY)
        rc = put(out, "max_fds", "gauge", "Files it may open.",
                 (double)l.rlim_cur);
    return rc;
}

int
process_put(struct buf *out)
{
    int rc = put_stat(out);
    return rc ? rc : put_files(out);
}
