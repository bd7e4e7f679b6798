/* SPDX-License-Identifier: MIT */
/*
 * PAM authentications of several services, one after the other in each round, with their cost.
 *
 *   login ROUNDS PORT USER DAEMON_PID REDIS_PID SERVICE=ANSWERS...
 *
 * ANSWERS is what a service's prompt is answered with: "-" nothing is asked; "texted" the code that the gateway of this
 * program (on PORT) took last for user number 0; else a file with one answer a line, used one after the other.
 * Prints a line for each authentication: round, service, PAM status, wall time, CPU time of this thread and of the
 * processes that the stack started, CPU time of the daemon, of Redis; times in ns.
 */
#define _GNU_SOURCE
#include "responder.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

#include <security/pam_appl.h>

#define SERVICES_MAX 32

struct service {
    const char *name;
    const char *answers;
    FILE *file;
};

static struct responder *responder;

static void *run_responder(void *unused)
{
    struct pollfd fd = {.fd = responder->fd, .events = POLLIN};

    (void)unused;
    for (;;) {
        int64_t wait_ns = responder_step(responder);

        poll(&fd, 1, wait_ns < 0 ? -1 : (int)(wait_ns / 1000000));
    }
    return NULL;
}

static char *next_answer(struct service *service)
{
    char *answer = NULL;
    size_t size = 0;

    if (strcmp(service->answers, "texted") == 0) {
        if (asprintf(&answer, "%06d", responder->codes[0]) < 0)
            return NULL;
        return answer;
    }
    if (service->file == NULL || getline(&answer, &size, service->file) < 0)
        return NULL;
    answer[strcspn(answer, "\n")] = '\0';
    return answer;
}

static int converse(int count, const struct pam_message **messages, struct pam_response **answers, void *data)
{
    *answers = calloc((size_t)count, sizeof **answers);
    if (*answers == NULL)
        return PAM_BUF_ERR;
    for (int i = 0; i < count; i++) {
        int style = messages[i]->msg_style;

        if (style == PAM_PROMPT_ECHO_OFF || style == PAM_PROMPT_ECHO_ON)
            (*answers)[i].resp = next_answer(data);
    }
    return PAM_SUCCESS;
}

static int64_t children_cpu_ns(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_CHILDREN, &usage) != 0)
        die("getrusage");
    return ((int64_t)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000
           + ((int64_t)usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

static int64_t cpu_of(pid_t pid)
{
    return pid > 0 ? process_cpu_ns(pid) : 0;
}

static int authenticate(struct service *service, const char *user)
{
    struct pam_conv conversation = {converse, service};
    pam_handle_t *pamh = NULL;
    int status = pam_start(service->name, user, &conversation, &pamh);

    if (status != PAM_SUCCESS)
        return status;
    pam_set_item(pamh, PAM_TTY, "ssh");
    pam_set_item(pamh, PAM_RHOST, "192.0.2.7");
    status = pam_authenticate(pamh, 0);
    pam_end(pamh, status);
    return status;
}

static void measure(long round, struct service *service, const char *user, pid_t daemon, pid_t redis)
{
    int64_t daemon_ns = cpu_of(daemon), redis_ns = cpu_of(redis);
    int64_t cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) + children_cpu_ns();
    int64_t wall_ns = now_ns(CLOCK_MONOTONIC);
    int status = authenticate(service, user);

    wall_ns = now_ns(CLOCK_MONOTONIC) - wall_ns;
    cpu_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) + children_cpu_ns() - cpu_ns;
    daemon_ns = cpu_of(daemon) - daemon_ns;
    redis_ns = cpu_of(redis) - redis_ns;
    printf("%ld %s %d %ld %ld %ld %ld\n", round, service->name, status, wall_ns, cpu_ns, daemon_ns, redis_ns);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct service services[SERVICES_MAX];
    int count = argc - 6;
    pthread_t thread;

    if (count < 1 || count > SERVICES_MAX)
        return 2;
    for (int i = 0; i < count; i++) {
        services[i].name = strsep(&argv[6 + i], "=");
        services[i].answers = argv[6 + i] ? argv[6 + i] : "-";
        services[i].file = fopen(services[i].answers, "re");
    }
    responder = responder_open(atoi(argv[2]), 0);
    if (pthread_create(&thread, NULL, run_responder, NULL) != 0)
        die("pthread_create");
    for (long round = 0; round < atol(argv[1]); round++)
        /* Each round begins with another service, so that none always follows the same one. */
        for (int i = 0; i < count; i++)
            measure(round, &services[(i + round) % count], argv[3], atoi(argv[4]), atoi(argv[5]));
    return 0;
}
