#include "config.h"

#include "filter/filter_tab.h"

#include <stddef.h>

const char *const filter_marker_name[MARKER_N] = {
    [MARKER_OPEN] = "think.open",
    [MARKER_CLOSE] = "think.close",
    [MARKER_CALL] = "tool.call",
    [MARKER_ID] = "tool.id",
    [MARKER_ARGS] = "tool.args",
};

/* Thoughts came with v13; where an older vocabulary already has their tokens,
 * they mean the same. */
#define THINK                              \
    [MARKER_OPEN] = "{{[THINK]}}",         \
    [MARKER_CLOSE] = "{{[/THINK]}}"

const struct filter_format filter_tab[] = {
    {"v15", {THINK, [MARKER_CALL] = "{{[TOOL_CALLS]}}",
             [MARKER_ARGS] = "{{[ARGS]}}"}},
    {"v13", {THINK, [MARKER_CALL] = "{{[TOOL_CALLS]}}",
             [MARKER_ARGS] = "{{[ARGS]}}"}},
    {"v11", {THINK, [MARKER_CALL] = "{{[TOOL_CALLS]}}",
             [MARKER_ID] = "{{[CALL_ID]}}", [MARKER_ARGS] = "{{[ARGS]}}"}},
    {"v7", {[MARKER_CALL] = "{{[TOOL_CALLS]}}"}},
    {"v3", {[MARKER_CALL] = "{{[TOOL_CALLS]}}"}},
    {NULL, {NULL}},
};
