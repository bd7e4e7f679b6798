/* SPDX-License-Identifier: MIT */
/*
 * A GatewayAPI that costs next to nothing: takes each text, keeps its code, answers 200 after a fixed delay.
 *
 * It judges nothing (tests/fake_gatewayapi does that). Its caller owns the loop: wait until fd is readable or the time
 * that responder_step gave is over, then step again. Header only, as two small programs share it.
 */
#ifndef RESPONDER_H
#define RESPONDER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define USERS_MAX 4096
#define CONNECTIONS_MAX 256
#define REQUEST_BYTES_MAX 16384
#define FIRST_MSISDN 4512000000L /* user n has FIRST_MSISDN + n; Danish numbers do not begin with 12 */

#define BODY "{\"ids\": [421332671], \"usage\": {\"countries\": {\"DK\": 1}, \"currency\": \"DKK\", \"total_cost\": 0.3}}"

struct gateway_connection {
    int fd;
    int is_owed; /* its answer is due */
    size_t length;
    char request[REQUEST_BYTES_MAX + 1];
};

struct due_answer {
    int64_t at_ns;
    struct gateway_connection *to;
};

struct responder {
    int fd; /* an epoll descriptor */
    int listener;
    int64_t delay_ns;
    long text_count;
    _Atomic int codes[USERS_MAX]; /* the last code texted to each user; -1 where there is none */
    struct due_answer due[CONNECTIONS_MAX]; /* a ring in order of time: the delay is the same for all */
    size_t due_first, due_count;
};

static void die(const char *what)
{
    fprintf(stderr, "bench: error: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(clockid_t clock)
{
    struct timespec now;

    if (clock_gettime(clock, &now) != 0)
        die("clock_gettime");
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* CPU time of another process, in ns. */
static int64_t process_cpu_ns(pid_t pid)
{
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) != 0)
        die("clock_getcpuclockid");
    return now_ns(clock);
}

static void watch(int epoll_fd, int fd, void *data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = data};

    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
}

static struct responder *responder_open(int port, int64_t delay_ns)
{
    struct responder *responder = calloc(1, sizeof *responder);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int yes = 1;

    if (responder == NULL)
        die("calloc");
    responder->delay_ns = delay_ns;
    for (size_t i = 0; i < USERS_MAX; i++)
        responder->codes[i] = -1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    responder->fd = epoll_create1(EPOLL_CLOEXEC);
    responder->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (responder->fd < 0 || responder->listener < 0)
        die("socket");
    if (setsockopt(responder->listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0
        || bind(responder->listener, (struct sockaddr *)&address, sizeof address) != 0
        || listen(responder->listener, CONNECTIONS_MAX) != 0)
        die("listen on the gateway's port");
    watch(responder->fd, responder->listener, NULL);
    return responder;
}

/* The number that follows a piece of text in the request, or -1. Blanks and one quote may stand between them. */
static long number_after(const char *request, const char *name)
{
    const char *found = strcasestr(request, name);

    if (found == NULL)
        return -1;
    found += strlen(name);
    found += strspn(found, " :\"");
    return *found >= '0' && *found <= '9' ? strtol(found, NULL, 10) : -1;
}

static void responder_take(struct responder *responder, struct gateway_connection *from)
{
    const char *body = strstr(from->request, "\r\n\r\n");
    long user = number_after(body, "\"msisdn\"") - FIRST_MSISDN;
    long code = number_after(body, "\"message\"");

    if (user >= 0 && user < USERS_MAX && code >= 0)
        responder->codes[user] = (int)code;
    responder->text_count++;
    if (responder->due_count == CONNECTIONS_MAX)
        die("more requests than connections");
    from->is_owed = 1;
    responder->due[(responder->due_first + responder->due_count++) % CONNECTIONS_MAX] =
        (struct due_answer){now_ns(CLOCK_MONOTONIC) + responder->delay_ns, from};
}

/* True while the connection stays open. One request at a time: the daemon sends the next after the answer. */
static int responder_read(struct responder *responder, struct gateway_connection *from)
{
    const char *body;
    long body_bytes;
    ssize_t count = read(from->fd, from->request + from->length, REQUEST_BYTES_MAX - from->length);

    if (count <= 0)
        return 0;
    from->length += (size_t)count;
    from->request[from->length] = '\0';
    body = strstr(from->request, "\r\n\r\n");
    if (body == NULL)
        return 1;
    body_bytes = number_after(from->request, "Content-Length");
    if ((long)from->length - (body + 4 - from->request) < body_bytes)
        return 1;
    responder_take(responder, from);
    from->length = 0;
    return 1;
}

static void responder_answer(struct gateway_connection *to)
{
    static char answer[512];
    static int length;

    if (length == 0)
        length = snprintf(answer, sizeof answer,
                          "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
                          "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                          strlen(BODY), BODY);
    to->is_owed = 0;
    if (write(to->fd, answer, (size_t)length) != length)
        fprintf(stderr, "bench: the daemon left before its answer\n");
}

static void responder_accept(struct responder *responder)
{
    struct gateway_connection *fresh = calloc(1, sizeof *fresh);
    int yes = 1;

    if (fresh == NULL)
        die("calloc");
    fresh->fd = accept4(responder->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fresh->fd < 0)
        die("accept");
    setsockopt(fresh->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    watch(responder->fd, fresh->fd, fresh);
}

/* Do what there is to do, without waiting. Gives the ns until the next answer is due, -1 if none is. */
static int64_t responder_step(struct responder *responder)
{
    struct epoll_event events[64];
    int count = epoll_wait(responder->fd, events, 64, 0);

    for (int i = 0; i < count; i++) {
        struct gateway_connection *connection = events[i].data.ptr;

        if (connection == NULL) {
            responder_accept(responder);
        } else if (connection->is_owed) {
            errno = EPROTO;
            die("the daemon said something before its answer");
        } else if (!responder_read(responder, connection)) {
            close(connection->fd);
            free(connection);
        }
    }
    while (responder->due_count > 0) {
        struct due_answer *next = &responder->due[responder->due_first];
        int64_t left_ns = next->at_ns - now_ns(CLOCK_MONOTONIC);

        if (left_ns > 0)
            return left_ns;
        responder_answer(next->to);
        responder->due_first = (responder->due_first + 1) % CONNECTIONS_MAX;
        responder->due_count--;
    }
    return -1;
}

#endif
