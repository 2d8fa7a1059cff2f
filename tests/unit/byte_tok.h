/* A tokenizer whose tokens are the 256 bytes, of any version; for tests. */
#ifndef UNIT_BYTE_TOK_H
#define UNIT_BYTE_TOK_H

#include "tok/tok.h"

/* extra: further members of the file, ", \"image\": {..}" or "". NULL when the
 * file does not load. tok_free it. */
static inline struct tok *
byte_tok(const char *version, const char *extra)
{
    static const char *const names[] = {
        "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
        "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]",
        "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
        "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]",
        "[THINK]", "[/THINK]", "[MODEL_SETTINGS]", "[/MODEL_SETTINGS]"
    };
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnop"
                                 "qrstuvwxyz0123456789+/";
    struct buf b = {0};
    struct tok *t = NULL;

    buf_printf(&b, "{\"config\": {\"pattern\": \".\", \"num_vocab_tokens\": "
               "256, \"default_vocab_size\": 356, "
               "\"default_num_special_tokens\": 100, \"version\": \"%s\"}%s, "
               "\"special_tokens\": [", version, extra);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        buf_printf(&b, "%s{\"rank\": %zu, \"token_str\": \"%s\", "
                   "\"is_control\": true}", i ? "," : "", i, names[i]);
    buf_puts(&b, "], \"vocab\": [");
    for (int i = 0; i < 256; i++)
        buf_printf(&b, "%s{\"rank\": %d, \"token_bytes\": \"%c%c==\", "
                   "\"token_str\": null}", i ? "," : "", i, digits[i >> 2],
                   digits[(i & 3) << 4]);
    buf_puts(&b, "]}");
    if (tok_parse(b.data, b.len, &t, NULL) != 0)
        t = NULL;
    buf_free(&b);
    return t;
}

#define BYTE_TOK_IMAGE ", \"image\": {\"image_patch_size\": 14, " \
    "\"max_image_size\": 1540, \"spatial_merge_size\": 2}"
#define BYTE_TOK_EFFORT ", \"model_settings_builder\": " \
    "{\"reasoning_effort\": {\"type\": \"enum\", \"accepts_none\": true, " \
    "\"default\": \"none\", \"values\": [\"none\", \"high\"]}}"

#endif
