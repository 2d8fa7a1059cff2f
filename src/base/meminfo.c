#include "config.h"

#include "base/meminfo.h"

#include <stdio.h>
#include <string.h>

uint64_t
meminfo_number(const char *path, const char *key)
{
    char line[256];
    unsigned long long x;
    uint64_t found = UINT64_MAX;
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return found;
    size_t n = key ? strlen(key) : 0;
    while (found == UINT64_MAX && fgets(line, sizeof line, f) != NULL)
        if ((key == NULL || strncmp(line, key, n) == 0)
            && sscanf(line + n, " %llu", &x) == 1)
            found = x;
    fclose(f);
    return found;
}

static uint64_t
number(const char *root, const char *path, const char *key)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    return meminfo_number(full, key);
}

#define CGROUP "/sys/fs/cgroup/memory."

uint64_t
meminfo_available(const char *root)
{
    uint64_t kib = number(root, "/proc/meminfo", "MemAvailable:");
    uint64_t most = number(root, CGROUP "max", NULL);
    uint64_t used = number(root, CGROUP "current", NULL);
    uint64_t cache = number(root, CGROUP "stat", "inactive_file ");
    uint64_t bytes = kib == UINT64_MAX ? kib : kib * 1024;
    if (most == UINT64_MAX || used == UINT64_MAX)
        return bytes;
    if (cache != UINT64_MAX)
        used = used > cache ? used - cache : 0;
    uint64_t left = most > used ? most - used : 0;
    return left < bytes ? left : bytes;
}
