/* SPDX-License-Identifier: MIT */
/*
 * Runs pam_authenticate for each line of standard input, "CONFDIR SERVICE ANSWER[,ANSWER]...", each in a child of its own:
 * a module that was cut off may crash. An ANSWER is what is typed at a prompt, "!" a prompt that is broken off, and the last
 * one stands for all that follow. Prints what PAM answers, a number a line, or 1000 for a crash.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <security/pam_appl.h>

static int converse(int count, const struct pam_message **messages, struct pam_response **responses, void *data)
{
    char **left = data;
    char *answer = *left;

    *responses = calloc((size_t)count, sizeof **responses);
    if (messages[0]->msg_style != PAM_PROMPT_ECHO_OFF)
        return PAM_SUCCESS;
    if (strchr(answer, ',') != NULL)
        *left = strchr(answer, ',') + 1;
    if (answer[0] == '!') {
        free(*responses);
        *responses = NULL;
        return PAM_CONV_ERR;
    }
    (*responses)->resp = strndup(answer, strcspn(answer, ","));
    return PAM_SUCCESS;
}

static int authenticate(const char *confdir, const char *service, char *answers)
{
    struct pam_conv conversation = {converse, &answers};
    pam_handle_t *pamh = NULL;
    int status = pam_start_confdir(service, "root", &conversation, confdir, &pamh);

    if (status == PAM_SUCCESS)
        status = pam_authenticate(pamh, 0);
    return status;
}

int main(void)
{
    char confdir[4096], service[256], answers[256];

    while (scanf("%4095s %255s %255s", confdir, service, answers) == 3) {
        pid_t child;
        int status = 0;

        fflush(stdout);
        child = fork();
        if (child == 0)
            _exit(authenticate(confdir, service, answers));
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 1;
        printf("%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 1000);
    }
    return 0;
}
