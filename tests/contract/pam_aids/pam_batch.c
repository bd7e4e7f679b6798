/* SPDX-License-Identifier: MIT */
/* Runs pam_authenticate for each line of standard input, "CONFDIR SERVICE", and prints what it answers, a number a line. */
#include <stdio.h>
#include <string.h>

#include <security/pam_appl.h>

static int no_conversation(int count, const struct pam_message **messages, struct pam_response **responses, void *data)
{
    (void)count;
    (void)messages;
    (void)responses;
    (void)data;
    return PAM_CONV_ERR;
}

int main(void)
{
    struct pam_conv conversation = {no_conversation, NULL};
    char confdir[4096], service[256];

    while (scanf("%4095s %255s", confdir, service) == 2) {
        pam_handle_t *pamh = NULL;
        int status = pam_start_confdir(service, "nobody", &conversation, confdir, &pamh);

        if (status == PAM_SUCCESS)
            status = pam_authenticate(pamh, PAM_SILENT);
        else
            status += 1000;
        printf("%d\n", status);
        if (pamh != NULL)
            pam_end(pamh, status);
    }
    return 0;
}
