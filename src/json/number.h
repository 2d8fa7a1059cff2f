/* Text of doubles, shared by the files of this room. */
#ifndef JSON_NUMBER_H
#define JSON_NUMBER_H

#define NUMBER_TEXT_MAX 48

/* Writes x as Python's repr does (shortest form that gives x back; NaN,
 * Infinity, -Infinity) to out, which has room for NUMBER_TEXT_MAX. */
void number_repr(double x, char *out);

#endif
