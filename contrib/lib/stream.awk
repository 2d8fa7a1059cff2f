# Shows a chat stream (server-sent events) to a person: the thought, the
# answer and the tool calls as they come. Input: the lines of the stream.

function unescape(s,    out, i, c) {
    out = ""
    while ((i = index(s, "\\")) > 0) {
        out = out substr(s, 1, i - 1)
        c = substr(s, i + 1, 1)
        s = substr(s, i + 2)
        if (c == "n") out = out "\n"
        else if (c == "t") out = out "\t"
        else if (c == "r") out = out ""
        else if (c == "u") { out = out "?"; s = substr(s, 5) }
        else out = out c
    }
    return out s
}

# The string that follows "key": in line, "" if there is none.
function field(line, key,    at, i, rest) {
    at = index(line, "\"" key "\":")
    if (!at) return ""
    rest = substr(line, at + length(key) + 3)
    sub(/^ */, "", rest)
    if (substr(rest, 1, 1) != "\"") return ""
    rest = substr(rest, 2)
    for (i = 1; i <= length(rest); i++) {
        if (substr(rest, i, 1) == "\\") i++
        else if (substr(rest, i, 1) == "\"") break
    }
    return unescape(substr(rest, 1, i - 1))
}

function say(what, text) {
    if (text == "") return
    if (what != now) {
        printf "%s%-10s ", now == "" ? "" : "\n", what ":"
        now = what
    }
    printf "%s", text
    fflush()
}

/^data: .*"error":/ {
    say("error", field($0, "message"))
    failed = 1
}

/^data: \{/ {
    if (index($0, "\"tool_calls\":[")) {
        name = field($0, "name")
        if (name != "") {
            if (now == "tool call") now = "another call"
            say("tool call", name " ")
        }
        say("tool call", field($0, "arguments"))
    } else {
        say("thinking", field($0, "reasoning"))
        say("answer", field($0, "content"))
    }
}

END {
    print ""
    exit failed || now == ""
}
