/* SPDX-License-Identifier: MIT */
/*
 * pam-helper: runs textgate_pam.py, which lies beside it, in Debian's Python, with a deadline that Python can't miss.
 *
 * The helper keeps a deadline of its own, and what stands here is for a Python that never comes to it. An alarm survives
 * exec, and so does the parent's process id, to which a code is bound (daemon/PROTOCOL.md).
 *
 * Rules of this file:
 * - It ends with 1 in every case but that in which Python takes its place.
 * - Python imports the helper: a module is compiled once, when it is installed, and a script at every start.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef PYTHON
#define PYTHON "/usr/bin/python3"
#endif
#define DEADLINE_S 10       /* as DEFAULT_DEADLINE_S in textgate_pam.py, for all that the line doesn't say, or says wrongly */
#define DEADLINE_MAX_S 300  /* as there */
#define SPARE_S 5           /* after which the helper has answered by itself, if it can */
#define ARGUMENTS_MAX 16
#define AWAY_TEXT "The code service does not answer. Ask your administrator.\n"

/* A traceback would be shown to the person, and a program that comes to its end exits with 0. */
#define CODE \
    "try:\n" \
    " import posix, sys\n" \
    " sys.path.insert(0, sys.argv.pop(1))\n" \
    " import textgate_pam\n" \
    " textgate_pam.run()\n" \
    "finally:\n" \
    " posix._exit(1)\n"

/* Whole seconds of the last --deadline, rounded up. */
static unsigned int deadline_s(int argc, char **argv)
{
    unsigned int found_s = DEADLINE_S;

    for (int i = 1; i + 1 < argc; i++) {
        long given_s = strcmp(argv[i], "--deadline") == 0 ? strtol(argv[i + 1], NULL, 10) : -1;

        if (given_s >= 0 && given_s <= DEADLINE_MAX_S)
            found_s = (unsigned int)given_s + 1;
    }
    return found_s;
}

/* Whoever called may have left SIGALRM blocked or ignored, and both survive exec too. */
static void set_alarm(unsigned int after_s)
{
    sigset_t set;

    (void)signal(SIGALRM, SIG_DFL);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGALRM);
    (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
    (void)alarm(after_s);
}

int main(int argc, char **argv)
{
    char *words[ARGUMENTS_MAX + 6] = {PYTHON, "-IBS", "-c", CODE};
    char *slash = argc > 0 && argv[0][0] == '/' ? strrchr(argv[0], '/') : NULL;

    if (slash != NULL && slash != argv[0] && argc <= ARGUMENTS_MAX) {
        *slash = '\0'; /* the folder, as an absolute path: "" would be any folder for Python */
        for (int i = 0; i < argc; i++)
            words[4 + i] = argv[i];
        set_alarm(deadline_s(argc, argv) + SPARE_S);
        (void)execv(PYTHON, words);
    }
    if (write(STDOUT_FILENO, AWAY_TEXT, strlen(AWAY_TEXT)) < 0)
        return 1; /* the answer is no, heard or not */
    return 1;
}
