#include "config.h"

#include "grammar/lang/format.h"

#include "grammar/lang/pattern.h"

#define YEAR "(?:[1-9]\\d{3}|0[1-9]\\d\\d|00[1-9]\\d|000[1-9])"
#define LEAP "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])" \
             "|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE "(?:" YEAR "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])" \
             "|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)" \
             "|02-(?:0[1-9]|1\\d|2[0-8]))|" LEAP "-02-29)"
#define TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?" \
             "(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define LABEL "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
#define HOST LABEL "(?:\\." LABEL ")*"
#define HOST_LABELS "[^.]{1,63}(?:\\.[^.]{1,63})*"
#define ATEXT "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4 OCTET "(?:\\." OCTET "){3}"
#define H16 "[0-9A-Fa-f]{1,4}"
#define LS32 "(?:" H16 ":" H16 "|" IPV4 ")"
#define IPV6 "(?:(?:" H16 ":){6}" LS32 "|::(?:" H16 ":){5}" LS32 \
    "|(?:" H16 ")?::(?:" H16 ":){4}" LS32 \
    "|(?:(?:" H16 ":){0,1}" H16 ")?::(?:" H16 ":){3}" LS32 \
    "|(?:(?:" H16 ":){0,2}" H16 ")?::(?:" H16 ":){2}" LS32 \
    "|(?:(?:" H16 ":){0,3}" H16 ")?::" H16 ":" LS32 \
    "|(?:(?:" H16 ":){0,4}" H16 ")?::" LS32 \
    "|(?:(?:" H16 ":){0,5}" H16 ")?::" H16 \
    "|(?:(?:" H16 ":){0,6}" H16 ")?::)"
/* RFC 3986; X: what else is a character (iri). */
#define UNRESERVED(X) "A-Za-z0-9._~" X "\\-"
#define PCT "%[0-9A-Fa-f]{2}"
#define PCHAR(X) "(?:[" UNRESERVED(X) "!$&'()*+,;=:@]|" PCT ")"
#define SEGMENTS(X) "(?:/" PCHAR(X) "*)*"
#define REG_NAME(X) "(?:[" UNRESERVED(X) "!$&'()*+,;=]|" PCT ")*"
#define USER(X) "(?:(?:[" UNRESERVED(X) "!$&'()*+,;=:]|" PCT ")*@)?"
#define AUTHORITY(X) USER(X) "(?:\\[" IPV6 "\\]|" REG_NAME(X) ")(?::\\d*)?"
#define TAIL(X) "(?:\\?(?:" PCHAR(X) "|[/?])*)?(?:#(?:" PCHAR(X) "|[/?])*)?"
#define URI(X) "[A-Za-z][A-Za-z0-9+.-]*:(?://" AUTHORITY(X) SEGMENTS(X) \
    "|/(?:" PCHAR(X) "+" SEGMENTS(X) ")?|" PCHAR(X) "+" SEGMENTS(X) "|)" \
    TAIL(X)
#define NO_COLON(X) "(?:[" UNRESERVED(X) "!$&'()*+,;=@]|" PCT ")+"
#define RELATIVE(X) "(?://" AUTHORITY(X) SEGMENTS(X) "|/(?:" PCHAR(X) "+" \
    SEGMENTS(X) ")?|" NO_COLON(X) SEGMENTS(X) "|)" TAIL(X)
#define INTERNATIONAL "\\u00A0-\\uD7FF\\uF900-\\uFDCF\\uFDF0-\\uFFEF"
#define POINTER "(?:/(?:[^~/]|~[01])*)*"
#define DURATION_TIME "T(?:\\d+H(?:\\d+M(?:\\d+S)?)?|\\d+M(?:\\d+S)?|\\d+S)"
#define DURATION "P(?:\\d+W|(?:\\d+Y(?:\\d+M(?:\\d+D)?)?|\\d+M(?:\\d+D)?" \
    "|\\d+D)(?:" DURATION_TIME ")?|" DURATION_TIME ")"
#define VARIABLE "(?:[A-Za-z0-9_]|" PCT ")(?:\\.?(?:[A-Za-z0-9_]|" PCT "))*"
#define VARSPEC VARIABLE "(?::[1-9]\\d{0,3}|\\*)?"

static const struct {
    struct str name;
    const char *pattern[3]; /* all of them hold */
} formats[] = {
    {{"date", 4}, {DATE}},
    {{"time", 4}, {TIME}},
    {{"date-time", 9}, {DATE "T" TIME}},
    {{"duration", 8}, {DURATION}},
    {{"hostname", 8}, {HOST, HOST_LABELS, ".{1,253}"}},
    {{"email", 5}, {ATEXT "+(?:\\." ATEXT "+)*@" HOST,
                    "[^@]{1,64}@" HOST_LABELS}},
    {{"ipv4", 4}, {IPV4}},
    {{"ipv6", 4}, {IPV6}},
    {{"uuid", 4}, {"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"}},
    {{"uri", 3}, {URI("")}},
    {{"uri-reference", 13}, {"(?:" URI("") "|" RELATIVE("") ")"}},
    {{"iri", 3}, {URI(INTERNATIONAL)}},
    {{"iri-reference", 13}, {"(?:" URI(INTERNATIONAL) "|"
                             RELATIVE(INTERNATIONAL) ")"}},
    {{"uri-template", 12}, {"(?:[!#$&(-;=?-\\[\\]_a-z~]|" PCT "|\\{"
                            "[+#./;?&]?" VARSPEC "(?:," VARSPEC ")*\\})*"}},
    {{"json-pointer", 12}, {POINTER}},
    {{"relative-json-pointer", 21}, {"(?:0|[1-9]\\d*)(?:#|" POINTER ")"}},
};

rx_id
format_rx(struct rx_pool *p, struct str name)
{
    rx_id r = p->all, x;

    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!str_eq(name, formats[i].name))
            continue;
        for (int k = 0; k < 3 && formats[i].pattern[k]; k++) {
            struct str text = str_from(formats[i].pattern[k]);
            if (pattern_compile(p, text, PATTERN_DOTALL, &x, NULL) != 0)
                return RX_NONE;
            r = rx_and(p, r, x);
        }
    }
    return r;
}
