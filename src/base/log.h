/*
 * The program's log: one line an event on standard error, which systemd's
 * journal or a supervisor keeps. Any thread; a line is written by one write(2).
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Level from which lines are dropped; LOG_INFO at start. May be called at any
 * time (SIGHUP). */
void log_set_level(enum log_level level);

/* Level for "error", "warn", "info" or "debug"; -1 for anything else. */
int log_level_parse(const char *name);

/* With on, lines start with the journal's "<N>" priority instead of a time. */
void log_set_journal(int on);

void log_line(enum log_level level, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
