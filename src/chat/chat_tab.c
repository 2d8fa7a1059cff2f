#include "config.h"

#include "chat/chat_tab.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json/json.h"

/* Versions 1 and 2 have no tekken file that any model uses. */
static const struct chat_format formats[] = {
    {"v3", 3, CALL_ARRAY, RESULT_JSON, .chunk_join = "\n\n"},
    {"v7", 7, CALL_ARRAY, RESULT_ID, .system_block = true,
     .content_with_calls = true, .chunk_join = "\n\n"},
    {"v11", 11, CALL_ID_ARGS, RESULT_ID, .system_block = true,
     .content_with_calls = true, .match_ids = true, .chunk_join = "\n\n"},
    {"v13", 13, CALL_ARGS, RESULT_PLAIN, .system_block = true,
     .tools_first = true, .content_with_calls = true, .match_ids = true,
     .free_ids = true, .thinking = true, .system_thinking = true,
     .chunk_join = "\n\n"},
    {"v15", 15, CALL_ARGS, RESULT_PLAIN, .system_block = true,
     .tools_first = true, .settings = true, .content_with_calls = true,
     .match_ids = true, .free_ids = true, .thinking = true,
     .tool_images = true, .chunk_join = ""},
};

/* Name of each control token and the first version that cannot do without it
 * (0: optional in all). */
static const struct {
    const char *name;
    int level;
} controls[N_CONTROL] = {
    [C_BOS] = {"<s>", 1},
    [C_EOS] = {"</s>", 1},
    [C_INST] = {"[INST]", 1},
    [C_INST_END] = {"[/INST]", 1},
    [C_TOOLS] = {"[AVAILABLE_TOOLS]", 1},
    [C_TOOLS_END] = {"[/AVAILABLE_TOOLS]", 1},
    [C_RESULTS] = {"[TOOL_RESULTS]", 1},
    [C_RESULTS_END] = {"[/TOOL_RESULTS]", 1},
    [C_CALLS] = {"[TOOL_CALLS]", 1},
    [C_SYSTEM] = {"[SYSTEM_PROMPT]", 7},
    [C_SYSTEM_END] = {"[/SYSTEM_PROMPT]", 7},
    [C_CONTENT] = {"[TOOL_CONTENT]", 7},
    [C_ARGS] = {"[ARGS]", 11},
    [C_CALL_ID] = {"[CALL_ID]", 11},
    [C_SETTINGS] = {"[MODEL_SETTINGS]", 15},
    [C_SETTINGS_END] = {"[/MODEL_SETTINGS]", 15},
    [C_THINK] = {"[THINK]", 0},
    [C_THINK_END] = {"[/THINK]", 0},
    [C_IMG] = {"[IMG]", 0},
    [C_IMG_BREAK] = {"[IMG_BREAK]", 0},
    [C_IMG_END] = {"[IMG_END]", 0},
};

const struct chat_format *
chat_format_find(const char *version)
{
    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
        if (strcmp(formats[i].version, version) == 0)
            return &formats[i];
    return NULL;
}

const char *
chat_control_name(enum control c)
{
    return controls[c].name;
}

bool
chat_control_needed(const struct chat_format *f, enum control c)
{
    return controls[c].level > 0 && f->level >= controls[c].level;
}
