/* SPDX-License-Identifier: MIT */
/*
 * A closed loop of logins against textgated's auth socket, with the gateway that texts their codes.
 *
 *   load SOCKET PORT DELAY_MS CONCURRENCY USER_COUNT WARM_UP_S SECONDS PID...
 *
 * One thread drives everything: each of CONCURRENCY clients does begin, reads its code where the gateway took it, does
 * check, and begins anew as the next of its own users. Nothing is judged in here but the daemon's answers; whatever is
 * not `ask` or `pass` counts as a failure and is shown once. Prints one JSON object; PIDs are processes whose CPU time
 * over the measured seconds is wanted.
 */
#define _GNU_SOURCE
#include "responder.h"

#include <sys/resource.h>
#include <sys/un.h>

#define CLIENTS_MAX 512
#define LATENCIES_MAX 2000000
#define END_WITHIN_NS 10000000000
#define KEY "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG9yZGluYXJ5LWtleS1mb3ItdGhlLWJlbmNobWFyaw"

enum step { BEGIN, CHECK };

struct client {
    int fd;
    enum step step;
    long user;
    long login; /* counts up; makes the SSH_CONNECTION of each login its own */
    int64_t started_at_ns;
    size_t length;
    char answer[2048];
};

struct latencies {
    size_t count;
    uint32_t us[LATENCIES_MAX];
};

static struct client clients[CLIENTS_MAX];
static struct latencies latencies[2];
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static struct responder *responder;
static long concurrency, user_count, login_count, failure_count;
static long under_way;
static int is_measuring, is_ending, epoll_fd;
static char first_failure[256];

static size_t add(char *buffer, size_t length, const char *name, const char *value)
{
    return length + (size_t)sprintf(buffer + length, "%c%s=%s", '\0', name, value);
}

static size_t build_request(const struct client *client, char *buffer)
{
    size_t length = (size_t)sprintf(buffer, "textgate/1 %s", client->step == BEGIN ? "begin" : "check");
    char value[128];

    sprintf(value, "bench%ld", client->user);
    length = add(buffer, length, "PAM_USER", value);
    length = add(buffer, length, "PAM_SERVICE", "sshd");
    length = add(buffer, length, "PAM_TTY", "ssh");
    length = add(buffer, length, "PAM_RHOST", "192.0.2.7");
    length = add(buffer, length, "PAM_TYPE", "auth");
    /* The last number makes a run's connections its own: what the run before left open is no part of it. */
    sprintf(value, "192.0.2.%ld %ld 198.51.100.1 %d", 1 + client->login / 50000 % 250, 1024 + client->login % 50000,
            1 + getpid() % 60000);
    length = add(buffer, length, "SSH_CONNECTION", value);
    length = add(buffer, length, "SSH_AUTH_INFO_0", "publickey " KEY);
    length = add(buffer, length, "PPID", "4321");
    length = add(buffer, length, "PPID_START", "123456");
    if (client->step == CHECK) {
        sprintf(value, "%06d", responder->codes[client->user]);
        length = add(buffer, length, "CODE", value);
    }
    return length;
}

static void start_step(struct client *client, enum step step)
{
    char request[1024];
    size_t length;

    client->step = step;
    client->length = 0;
    length = build_request(client, request);
    client->started_at_ns = now_ns(CLOCK_MONOTONIC);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect to the daemon");
    if (write(client->fd, request, length) != (ssize_t)length || shutdown(client->fd, SHUT_WR) != 0)
        die("write to the daemon");
    watch(epoll_fd, client->fd, client);
}

static void start_login(struct client *client)
{
    static long all;

    if (is_ending) {
        under_way--;
        return;
    }
    client->login = all++;
    client->user += concurrency;
    if (client->user >= user_count)
        client->user = client - clients;
    responder->codes[client->user] = -1;
    start_step(client, BEGIN);
}

static void note_latency(const struct client *client)
{
    struct latencies *of = &latencies[client->step];

    if (is_measuring && of->count < LATENCIES_MAX)
        of->us[of->count++] = (uint32_t)((now_ns(CLOCK_MONOTONIC) - client->started_at_ns) / 1000);
}

static void finish_step(struct client *client)
{
    const char *wanted = client->step == BEGIN ? "ask\n" : "pass\n";
    int is_good = strncmp(client->answer, wanted, strlen(wanted)) == 0;

    note_latency(client);
    if (is_good && client->step == BEGIN && responder->codes[client->user] >= 0) {
        start_step(client, CHECK);
        return;
    }
    if (is_good && client->step == CHECK) {
        login_count += is_measuring;
    } else {
        failure_count++;
        if (first_failure[0] == '\0')
            snprintf(first_failure, sizeof first_failure, "%d: %.240s", client->step, client->answer);
    }
    start_login(client);
}

static void hear(struct client *client)
{
    ssize_t count = read(client->fd, client->answer + client->length, sizeof client->answer - 1 - client->length);

    if (count < 0)
        die("read from the daemon");
    client->length += (size_t)count;
    client->answer[client->length] = '\0';
    if (count == 0 || client->length == sizeof client->answer - 1) {
        close(client->fd);
        finish_step(client);
    }
}

static void run_until(int64_t end_ns)
{
    struct epoll_event events[128];

    for (;;) {
        int64_t wait_ns = responder_step(responder), left_ns = end_ns - now_ns(CLOCK_MONOTONIC);
        struct timespec timeout;
        int count;

        if (left_ns <= 0 || (is_ending && under_way == 0))
            return;
        if (wait_ns < 0 || wait_ns > left_ns)
            wait_ns = left_ns;
        timeout = (struct timespec){wait_ns / 1000000000, wait_ns % 1000000000};
        count = epoll_pwait2(epoll_fd, events, 128, &timeout, NULL);
        if (count < 0 && errno != EINTR)
            die("epoll_pwait2");
        for (int i = 0; i < count; i++)
            if (events[i].data.ptr != responder)
                hear(events[i].data.ptr);
    }
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void print_latencies(const char *name, struct latencies *of)
{
    static const double shares[] = {0.5, 0.9, 0.99, 0.999, 1};
    static const char *const names[] = {"p50", "p90", "p99", "p999", "max"};

    qsort(of->us, of->count, sizeof of->us[0], by_size);
    printf("\"%s_ms\": {", name);
    for (size_t i = 0; i < 5 && of->count > 0; i++)
        printf("%s\"%s\": %.3f", i ? ", " : "", names[i], of->us[(size_t)(shares[i] * (double)(of->count - 1))] / 1000.0);
    printf("}, ");
}

int main(int argc, char **argv)
{
    int64_t cpu_ns[8], own_ns, started_ns;
    double elapsed_s;
    int pid_count = argc - 8;

    if (argc < 8 || pid_count > 8)
        return 2;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[1]);
    responder = responder_open(atoi(argv[2]), (int64_t)(atof(argv[3]) * 1e6));
    concurrency = atol(argv[4]);
    user_count = atol(argv[5]);
    if (concurrency < 1 || concurrency > CLIENTS_MAX || user_count < concurrency || user_count > USERS_MAX)
        return 2;
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll_fd, responder->fd, responder);
    for (long i = 0; i < concurrency; i++) {
        clients[i].user = i - concurrency;
        under_way++;
        start_login(&clients[i]);
    }
    run_until(now_ns(CLOCK_MONOTONIC) + (int64_t)(atof(argv[6]) * 1e9));
    is_measuring = 1;
    for (int i = 0; i < pid_count; i++)
        cpu_ns[i] = process_cpu_ns(atoi(argv[8 + i]));
    own_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    started_ns = now_ns(CLOCK_MONOTONIC);
    run_until(started_ns + (int64_t)(atof(argv[7]) * 1e9));
    elapsed_s = (double)(now_ns(CLOCK_MONOTONIC) - started_ns) / 1e9;
    own_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID) - own_ns;
    for (int i = 0; i < pid_count; i++)
        cpu_ns[i] = process_cpu_ns(atoi(argv[8 + i])) - cpu_ns[i];
    /* To the end with what is under way, or its texts would come to the next run's gateway. */
    is_measuring = 0;
    is_ending = 1;
    run_until(now_ns(CLOCK_MONOTONIC) + END_WITHIN_NS);
    for (char *p = first_failure; *p; p++)
        if (*p < ' ' || *p > '~' || *p == '"' || *p == '\\')
            *p = '.';
    printf("{\"logins\": %ld, \"failures\": %ld, \"first_failure\": \"%s\", \"elapsed_s\": %.3f, \"logins_per_s\": %.1f, ",
           login_count, failure_count, first_failure, elapsed_s, (double)login_count / elapsed_s);
    print_latencies("begin", &latencies[BEGIN]);
    print_latencies("check", &latencies[CHECK]);
    printf("\"load_cpu_ms\": %.3f, \"cpu_ms\": [", (double)own_ns / 1e6);
    for (int i = 0; i < pid_count; i++)
        printf("%s%.3f", i ? ", " : "", (double)cpu_ns[i] / 1e6);
    printf("]}\n");
    return 0;
}
