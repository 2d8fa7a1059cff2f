/* One row per configuration key; conf_tab.c has them. */
#ifndef CONF_CONF_TAB_H
#define CONF_CONF_TAB_H

#include <stddef.h>

#include "conf/conf.h"

enum conf_type {
    CONF_STRING,  /* char * */
    CONF_BOOL,    /* on, off, true, false, yes, no, 1, 0 */
    CONF_INT,     /* int */
    CONF_COUNT,   /* uint64_t, plain number with K, M suffix allowed */
    CONF_SIZE,    /* uint64_t, bytes with K, M, G, T suffix */
    CONF_TIME,    /* uint64_t, milliseconds; ms, s, m, h */
    CONF_OCTAL,   /* uint64_t, file mode */
    CONF_NUMBER,  /* double */
    CONF_SIGNED   /* int64_t */
};

struct conf_key {
    const char *name;
    enum conf_type type;
    size_t offset;          /* in struct conf */
    const char *initial;    /* default, as it would stand in the file;
                               NULL = not set */
    double min, max;        /* numbers, in the unit of the struct */
    const char *choices;    /* strings: allowed words, separated by spaces */
    bool reload;            /* taken over on SIGHUP */
    const char *text;       /* one line for -T and the sample file */
};

extern const struct conf_key conf_tab[];
extern const size_t conf_tab_n;

#endif
