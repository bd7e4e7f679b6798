/* SPDX-License-Identifier: MIT */
/*
 * A PAM application for the tests, with a private folder of services and a conversation that can misbehave.
 *
 *   pam_drive [-c] [-t TTY] [-e NAME=VALUE]... CONFDIR SERVICE USER OPS [ANSWER]...
 *
 * OPS, one letter each: a = pam_authenticate, s = the same with PAM_SILENT, c = pam_setcred,
 * e = count what of textgate's is left in the PAM environment, and whether the conversation is another's. -c: no conversation function.
 * ANSWER, one per prompt: "=TEXT" types TEXT; "!WORD" is one of hostile[]. With none left the conversation fails.
 * Prints what the person sees and each return value: "OFF text", "ON text", "INFO text", "ERROR text", "a 0".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <security/pam_appl.h>

static char **answers;

/* Answers one prompt as the word says; the return value is the conversation's. */
static int be_hostile(const char *word, struct pam_response **responses)
{
    struct pam_response *response = calloc(1, sizeof *response);
    size_t length = 0;

    *responses = response;
    if (strcmp(word, "null") == 0) /* Ctrl-D, Ctrl-C in many programs */
        return PAM_SUCCESS;
    if (strcmp(word, "nullarray") == 0) {
        free(response);
        *responses = NULL;
        return PAM_SUCCESS;
    }
    if (strcmp(word, "error") == 0 || strcmp(word, "again") == 0 || strcmp(word, "ignore") == 0) {
        free(response);
        *responses = NULL;
        return word[0] == 'e' ? PAM_CONV_ERR : word[0] == 'a' ? PAM_CONV_AGAIN : PAM_IGNORE;
    }
    if (strcmp(word, "errorwithtext") == 0) {
        response->resp = strdup("123456");
        return PAM_CONV_ERR;
    }
    if (strcmp(word, "512") == 0 || strcmp(word, "513") == 0 || strcmp(word, "1000000") == 0)
        length = (size_t)atol(word);
    response->resp = calloc(1, length > 256 ? length + 1 : 256);
    if (length > 0)
        memset(response->resp, '7', length);
    else /* "bytes": every byte that a string can hold, control characters and broken UTF-8 included */
        for (int i = 1; i < 256; i++)
            response->resp[i - 1] = (char)i;
    return PAM_SUCCESS;
}

static int converse(int count, const struct pam_message **messages, struct pam_response **responses, void *data)
{
    static const char *const names[] = {"", "OFF", "ON", "ERROR", "INFO"};
    int style = messages[0]->msg_style;

    (void)data;
    if (count != 1)
        abort();
    printf("%s %s\n", names[style], messages[0]->msg);
    if (style == PAM_PROMPT_ECHO_OFF || style == PAM_PROMPT_ECHO_ON) {
        const char *answer = *answers;

        if (answer == NULL)
            return PAM_CONV_ERR;
        answers++;
        if (answer[0] == '!')
            return be_hostile(answer + 1, responses);
        *responses = calloc(1, sizeof **responses);
        (*responses)->resp = strdup(answer + 1);
        return PAM_SUCCESS;
    }
    *responses = calloc(1, sizeof **responses);
    return PAM_SUCCESS;
}

/* How much of textgate's is left: names in the environment, and a conversation that is not the program's. */
static int count_rests(pam_handle_t *pamh, const struct pam_conv *own)
{
    const void *item = NULL;
    int count = pam_getenv(pamh, "TEXTGATE_PROOF") != NULL;

    if (pam_get_item(pamh, PAM_CONV, &item) != PAM_SUCCESS || ((const struct pam_conv *)item)->conv != own->conv)
        count++;
    return count;
}

int main(int argc, char **argv)
{
    struct pam_conv conversation = {converse, NULL};
    const char *tty = NULL;
    const char *env[16] = {NULL};
    int env_count = 0;
    int option;
    int status = PAM_SUCCESS;
    pam_handle_t *pamh = NULL;

    while ((option = getopt(argc, argv, "+ct:e:")) != -1) {
        if (option == 'c')
            conversation.conv = NULL;
        else if (option == 't')
            tty = optarg;
        else if (option == 'e' && env_count < 16)
            env[env_count++] = optarg;
        else
            return 64;
    }
    if (argc - optind < 4)
        return 64;
    answers = argv + optind + 4;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (pam_start_confdir(argv[optind + 1], argv[optind + 2], &conversation, argv[optind], &pamh) != PAM_SUCCESS)
        return 65;
    if (tty != NULL && pam_set_item(pamh, PAM_TTY, tty) != PAM_SUCCESS)
        return 66;
    for (int i = 0; i < env_count; i++)
        if (pam_putenv(pamh, env[i]) != PAM_SUCCESS)
            return 67;
    for (const char *op = argv[optind + 3]; *op != '\0'; op++) {
        if (*op == 'e') {
            printf("e %d\n", count_rests(pamh, &conversation));
            continue;
        }
        if (*op == 'c')
            status = pam_setcred(pamh, PAM_ESTABLISH_CRED);
        else
            status = pam_authenticate(pamh, *op == 's' ? PAM_SILENT : 0);
        printf("%c %d\n", *op, status);
    }
    return pam_end(pamh, status) == PAM_SUCCESS ? 0 : 68;
}
