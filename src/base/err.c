#include "config.h"

#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *
err_str(int code)
{
    switch (code) {
    case 0: return "success";
    case ERR_AGAIN: return "not now";
    case ERR_NOMEM: return "out of memory";
    case ERR_IO: return "input/output error";
    case ERR_FORMAT: return "malformed input";
    case ERR_RANGE: return "value out of range";
    case ERR_NOENT: return "not found";
    case ERR_LIMIT: return "limit exceeded";
    case ERR_UNSUPPORTED: return "not supported";
    case ERR_STATE: return "called at the wrong time";
    case ERR_CLOSED: return "closed";
    case ERR_DEVICE: return "device error";
    case ERR_MISMATCH: return "mismatch";
    case ERR_ACCESS: return "permission denied";
    default: return "unknown error";
    }
}

int
err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e == NULL)
        return code;
    va_list ap;
    va_start(ap, fmt);
    e->code = code;
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    return code;
}

int
err_prefix(struct err *e, const char *fmt, ...)
{
    if (e == NULL)
        return 0;
    char old[ERR_TEXT_MAX];
    memcpy(old, e->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->text)
        snprintf(e->text + n, sizeof e->text - (size_t)n, "%s", old);
    return e->code;
}
