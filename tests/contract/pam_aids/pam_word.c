/* SPDX-License-Identifier: MIT */
/*
 * Stands for the helper and the daemon behind it: knows the code "right", which is good once. ONCE is a file that is there as
 * long as nobody has used it; "begin" needs no code where SKIP is there. Gives its word with a yes, as textgate_pam.py does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char typed[512] = "";
    const char *name = getenv("TEXTGATE_PROOF");
    int is_good;

    if (argc < 2)
        return 2;
    if (strcmp(argv[argc - 1], "check") == 0)
        is_good = read(STDIN_FILENO, typed, sizeof typed - 1) > 0 && strcmp(typed, "right") == 0 && unlink(ONCE) == 0;
    else
        is_good = access(SKIP, F_OK) == 0;
    if (is_good && name != NULL)
        printf("textgate-proof: %s %s %s\n", name, getenv("PAM_SERVICE"), getenv("PAM_USER"));
    return is_good ? 0 : 1;
}
