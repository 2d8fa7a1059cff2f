#include "config.h"

#include "backend/backend.h"

#include <string.h>

const struct backend_ops *
backend_find(const struct backend_ops *const *table, const char *name,
             const char **spec)
{
    size_t n = strcspn(name, ":");
    *spec = name[n] == ':' ? name + n + 1 : NULL;
    for (; *table != NULL; table++)
        if (strlen((*table)->name) == n &&
            strncmp((*table)->name, name, n) == 0)
            return *table;
    return NULL;
}
