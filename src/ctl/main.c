/*
 * siroccoctl: what an operator or a script asks of Sirocco without the daemon.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "ctl/command.h"

static const struct command commands[] = {
    {"tokenize", "--tokenizer FILE [--chat [--strict]]",
     "JSON strings (or chat bodies) in, token ids out", tokenize_command},
    {"detokenize", "--tokenizer FILE [--keep-special]",
     "arrays of token ids in, JSON strings out", detokenize_command},
    {"filter", "--tokenizer FILE [--patterns FILE]",
     "ids of a model's output in, the API's message out", filter_command},
    {"score", "--model DIR [--backend NAME] [--step N] [--max-context N]\n"
     "           [--threads N] [--layers N] [--packed FILE] [--dummy]",
     "arrays of token ids in, log-probabilities out", score_command},
    {"generate", "--model DIR [--backend NAME] [--step N] [--max-context N]\n"
     "           [--threads N] [--packed FILE] [--dummy]",
     "prompts of token ids in, generated ids out", generate_command},
    {"check", "[--config FILE] [--model DIR] [--backend NAME]",
     "the machine, the model and the memory plan", check_command},
    {"diagnose", "[--config FILE] [--url URL] [--user NAME] "
     "[--web-user NAME]",
     "what keeps an installation from serving, and how to mend it",
     diagnose_command},
    {"pack", "--model DIR --out FILE [--dummy]",
     "the weights in the form that the GPU holds, for quick restarts",
     pack_command},
    {"bench",
     "serve [--url URL] [--key KEY[,KEY...]] [--model NAME] [--streams N]\n"
     "           [--requests N] [--tokens N] [--prompt-words N] "
     "[--prompt-ids N]\n"
     "           [--vocab N] [--rate R] [--ramp SECONDS] [--slack MS] "
     "[--pid PID]\n"
     "           [--no-stream] [--runs N] [--json]\n"
     "       siroccoctl bench engine [--model DIR] [--backend NAME] "
     "[--dummy]\n"
     "           [--batches N,...] [--prefills N,...] [--prompt N] "
     "[--tokens N]\n"
     "           [--runs N] [--step N] [--threads N] [--vocab N]\n"
     "           [--roof GB[,TFLOP[,TFLOP]]] [--json]",
     "measures a running server, or a back end by itself", bench_command},
};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static void
usage(FILE *out)
{
    fprintf(out, "usage: siroccoctl COMMAND [OPTION...]\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-11s %s\n", commands[i].name, commands[i].about);
    fprintf(out, "\nsiroccoctl help COMMAND shows a command's options; the "
            "manual is siroccoctl(1).\n");
}

static const struct command *
find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int
help(const char *name)
{
    const struct command *c = name ? find(name) : NULL;
    if (name && c == NULL) {
        fprintf(stderr, "siroccoctl: no command '%s'\n", name);
        return EXIT_USAGE;
    }
    if (c)
        printf("usage: siroccoctl %s %s\n\n%s\n", c->name, c->usage,
               c->about);
    else
        usage(stdout);
    return EXIT_OK;
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0)
        return help(argc > 2 ? argv[2] : NULL);
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0) {
        puts(PACKAGE_STRING);
        return EXIT_OK;
    }
    const struct command *c = find(argv[1]);
    if (c == NULL) {
        fprintf(stderr, "siroccoctl: no command '%s'\n\n", argv[1]);
        usage(stderr);
        return EXIT_USAGE;
    }
    return c->run(argc - 1, argv + 1);
}
