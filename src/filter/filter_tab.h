/* The patterns of each prompt format; filter_tab.c has one row a format. */
#ifndef FILTER_FILTER_TAB_H
#define FILTER_FILTER_TAB_H

enum marker {
    MARKER_OPEN,   /* a thought begins */
    MARKER_CLOSE,  /* a thought ends */
    MARKER_CALL,   /* a tool call begins: its name follows */
    MARKER_ID,     /* the name ended, an id of the call follows */
    MARKER_ARGS,   /* the name ended, the arguments follow */
    MARKER_N
};

struct filter_format {
    const char *version;
    const char *pattern[MARKER_N]; /* PCRE2, {{NAME}} = a control token; NULL:
                                      the format has no such marker */
};

/* Names of the markers in the override file, by enum marker. */
extern const char *const filter_marker_name[MARKER_N];
/* Ends with a row whose version is NULL. */
extern const struct filter_format filter_tab[];

#endif
