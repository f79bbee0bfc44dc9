// A WebSocket load client that costs less than the servers it measures: one thread, epoll, frames counted by
// their headers. Prints one JSON object on standard output; samples, if asked for, on standard error.
//
//   load --port P --clients N --symbols K --universe M [--path /stream] [--batch] [--pid SERVER]
//        [--warm S] [--seconds S] [--stalled N] [--latency] [--trades] [--sample S] [--max-wait S]
//
// --latency times one record in 16 by its "time". --trades subscribes to trades whose ids are microseconds, and times
// each by its id: the clock of the venue that made it, not of the server.
// --batch asks for several records in one frame (?batch=true). Each client subscribes to K of M symbols named
// SYM000 … (or --names A,B,C: to all of these): all of them where K = M, else K chosen by a fixed pseudo-random
// sequence. The first --stalled clients subscribe and never read.
// Counting starts --warm seconds after every reading client has got its first record. Ends by itself in
// max-wait + warm + seconds + 10 seconds at the latest.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER_BYTES = 1 << 20, MAX_LATENCIES = 1 << 23, MAX_SYMBOLS = 1000, REQUEST_BYTES = 1 << 16 };

struct client {
  int fd, stalled, started, closed;
  uint64_t records, at_start;
  unsigned char *rest;  // the beginning of a frame whose end has not come yet
  size_t rest_bytes, rest_room;
};

static struct {
  int port, clients, per_client, universe, stalled, latency, trades;
  pid_t pid;
  double warm, seconds, sample, max_wait;
  const char *path, *names, *broker;
} opt = {.clients = 1, .per_client = 10, .universe = 10, .warm = 1, .seconds = 3, .max_wait = 30,
         .path = "/stream", .broker = "mock"};

static unsigned char buffer[BUFFER_BYTES];
static uint64_t records, bytes, receives, others, errors_told, pings, closed_count, started_count;
static uint32_t *latencies;
static size_t latency_count;
static int measuring;

static void fail(const char *what) {
  printf("{\"error\": \"%s: %s\"}\n", what, errno ? strerror(errno) : "");
  exit(1);
}

static double seconds_of(clockid_t clock) {
  struct timespec t;
  if (clock_gettime(clock, &t)) return 0;
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double now_s(void) { return seconds_of(CLOCK_MONOTONIC); }

// ---- the measured process ------------------------------------------------------------------------------------

static double server_cpu_s(void) {  // all threads, to the nanosecond
  clockid_t clock;
  if (!opt.pid || clock_getcpuclockid(opt.pid, &clock)) return 0;
  return seconds_of(clock);
}

static double stat_cpu_s(pid_t pid, pid_t *parent) {  // with the children it has reaped; in clock ticks
  char path[64], text[2048];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = open(path, O_RDONLY);
  if (fd < 0) return 0;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  char *after_name = strrchr(text, ')');
  long user = 0, system = 0, reaped_user = 0, reaped_system = 0;
  if (!after_name || sscanf(after_name + 2, "%*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld %ld %ld", parent,
                            &user, &system, &reaped_user, &reaped_system) < 5)
    return 0;
  return (double)(user + system + reaped_user + reaped_system) / (double)sysconf(_SC_CLK_TCK);
}

static double descendants_cpu_s(void) {  // e.g. a PostgreSQL that the server started
  if (!opt.pid) return 0;
  double total = 0;
  DIR *proc = opendir("/proc");
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    pid_t pid = (pid_t)atoi(entry->d_name), up = 0, next = 0;
    if (pid <= 0 || pid == opt.pid) continue;
    double cpu = stat_cpu_s(pid, &up);
    for (int depth = 0; up > 1 && up != opt.pid && depth < 16; depth++) {
      stat_cpu_s(up, &next);
      up = next;
    }
    if (up == opt.pid) total += cpu;
  }
  if (proc) closedir(proc);
  return total;
}

static long rss_kb(void) {
  char path[64], line[256];
  long kb = 0;
  snprintf(path, sizeof path, "/proc/%d/status", opt.pid);
  FILE *file = opt.pid ? fopen(path, "r") : NULL;
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "VmRSS: %ld", &kb) == 1) break;
  if (file) fclose(file);
  return kb;
}

// ---- frames --------------------------------------------------------------------------------------------------

static void send_masked(struct client *c, int opcode, const void *payload, size_t size) {
  static const unsigned char mask[4] = {0x12, 0x34, 0x56, 0x78};
  static unsigned char frame[REQUEST_BYTES + 16];
  size_t head = 0;
  frame[head++] = (unsigned char)(0x80 | opcode);
  if (size < 126) {
    frame[head++] = (unsigned char)(0x80 | size);
  } else {
    frame[head++] = 0x80 | 126;
    frame[head++] = (unsigned char)(size >> 8);
    frame[head++] = (unsigned char)size;
  }
  memcpy(frame + head, mask, 4);
  head += 4;
  for (size_t i = 0; i < size; i++) frame[head + i] = ((const unsigned char *)payload)[i] ^ mask[i & 3];
  // a request or a pong is small and the socket's buffer empty: a short write would be a fault
  if (write(c->fd, frame, head + size) != (ssize_t)(head + size) && errno != EPIPE && errno != ECONNRESET)
    fail("short write");
}

static void note_latency(const unsigned char *payload, size_t size) {
  const char *key = opt.trades ? "\"trade_id\":\"" : "\"time\":";
  const char *found = memmem(payload, size, key, strlen(key));
  if (!found || latency_count == MAX_LATENCIES) return;
  double made_s = strtod(found + strlen(key), NULL) / (opt.trades ? 1e6 : 1);
  double late_us = (seconds_of(CLOCK_REALTIME) - made_s) * 1e6;
  latencies[latency_count++] = late_us < 0 ? 0 : late_us > 4e9 ? 4000000000u : (uint32_t)late_us;
}

static void on_text(struct client *c, const unsigned char *payload, size_t size) {
  uint64_t count = 0;
  if (size > 9 && payload[0] == '{') {
    count = payload[9] == 't';  // {"type":"tick" or "trade"; else a status, an ack or an error
    errors_told += payload[9] == 'e';
  } else if (size && payload[0] == '[') {  // ?batch=true
    static const char start[] = "{\"type\":\"t";
    for (const unsigned char *at = payload, *end = payload + size;
         (at = memmem(at, (size_t)(end - at), start, sizeof start - 1)); at += sizeof start)
      count++;
  }
  if (!count) {
    others++;
    return;
  }
  if (!c->started) {
    c->started = 1;
    started_count++;
  }
  c->records += count;
  records += count;
  if (measuring && opt.latency && (opt.trades || (records & 15) == 0)) note_latency(payload, size);
}

// Handle whole frames at the start of the data and return how many bytes they took.
static size_t take_frames(struct client *c, const unsigned char *data, size_t size) {
  size_t at = 0;
  while (size - at >= 2) {
    const unsigned char *frame = data + at;
    size_t head = 2;
    uint64_t length = frame[1] & 127;
    if (length == 126) {
      if (size - at < (head = 4)) break;
      length = (uint64_t)frame[2] << 8 | frame[3];
    } else if (length == 127) {
      if (size - at < (head = 10)) break;
      length = 0;
      for (int i = 2; i < 10; i++) length = length << 8 | frame[i];
    }
    if (head + length > BUFFER_BYTES / 2) fail("frame too long");
    if (size - at < head + length) break;
    switch (frame[0]) {
      case 0x81: on_text(c, frame + head, length); break;
      case 0x89: pings++; send_masked(c, 10, frame + head, length); break;
      case 0x88: c->closed = 1; break;
      case 0x8A: break;
      default: errno = 0; fail("unexpected frame: fragmented, compressed, binary or masked");
    }
    at += head + length;
  }
  return at;
}

static void take_bytes(struct client *c, size_t size) {  // of the buffer, what was kept included
  size_t taken = take_frames(c, buffer, size);
  size_t left = size - taken;
  if (left > c->rest_room && !(c->rest = realloc(c->rest, c->rest_room = left * 2))) fail("realloc");
  if (left) memcpy(c->rest, buffer + taken, left);
  c->rest_bytes = left;
}

static void receive(struct client *c, int poller) {
  if (c->rest_bytes) memcpy(buffer, c->rest, c->rest_bytes);
  ssize_t n = recv(c->fd, buffer + c->rest_bytes, BUFFER_BYTES / 4, 0);
  receives++;
  if (n > 0) {
    bytes += (uint64_t)n;
    take_bytes(c, c->rest_bytes + (size_t)n);
  } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
    c->closed = 1;
  }
  if (c->closed) {
    closed_count++;
    epoll_ctl(poller, EPOLL_CTL_DEL, c->fd, NULL);
  }
}

// ---- connecting ----------------------------------------------------------------------------------------------

static void connect_client(struct client *c) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  struct timeval patience = {.tv_sec = 20};
  int one = 1, small = 1 << 16;
  if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) fail("socket");
  if (c->stalled) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  char request[512];
  int length = snprintf(request, sizeof request,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: bWRzZXJ2ZXItYmVuY2gtMQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        opt.path, opt.port);
  if (write(c->fd, request, (size_t)length) != length) fail("handshake");
  size_t got = 0;
  char *end = NULL;
  while (!end) {
    ssize_t n = recv(c->fd, buffer + got, 8192 - got, 0);
    if (n <= 0) fail("handshake");
    got += (size_t)n;
    end = memmem(buffer, got, "\r\n\r\n", 4);
  }
  if (memcmp(buffer, "HTTP/1.1 101", 12)) errno = 0, fail("the server did not upgrade");
  size_t head = (size_t)(end + 4 - (char *)buffer);
  memmove(buffer, buffer + head, got - head);
  take_bytes(c, got - head);
}

static void subscribe(struct client *c, int index) {
  static char request[REQUEST_BYTES];
  unsigned char chosen[MAX_SYMBOLS] = {0};
  uint64_t state = 0x9E3779B97F4A7C15ull * (uint64_t)(index + 1) | 1;
  size_t at = 0;
  at += (size_t)snprintf(request, sizeof request, "{\"action\":\"subscribe\",\"symbols\":[");
  if (opt.names) {
    char *names = strdup(opt.names), *rest = names;
    for (char *name; (name = strsep(&rest, ","));)
      at += (size_t)snprintf(request + at, sizeof request - at, "\"%s\",", name);
    free(names);
  }
  for (int left = opt.names ? 0 : opt.per_client, next = 0; left > 0;) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    int symbol = opt.per_client == opt.universe ? next++ : (int)(state % (uint64_t)opt.universe);
    if (chosen[symbol]) continue;
    chosen[symbol] = 1;
    left--;
    at += (size_t)snprintf(request + at, sizeof request - at, "\"SYM%03d\",", symbol);
  }
  at--;  // the last comma
  at += (size_t)snprintf(request + at, sizeof request - at, "],\"types\":[\"%s\"],\"broker\":\"%s\"}",
                         opt.trades ? "trade" : "tick", opt.broker);
  send_masked(c, 1, request, at);
}

// ---- the run -------------------------------------------------------------------------------------------------

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

struct snapshot { double at, server, descendants, own; uint64_t records, bytes, receives; };

static struct snapshot snap(void) {
  struct rusage own;
  getrusage(RUSAGE_SELF, &own);
  return (struct snapshot){
      .at = now_s(), .server = server_cpu_s(), .descendants = descendants_cpu_s(),
      .own = (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
             (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6,
      .records = records, .bytes = bytes, .receives = receives};
}

static void report(const struct client *clients, struct snapshot from, struct snapshot to, long rss_from) {
  double wall = to.at - from.at, count = (double)(to.records - from.records), cpu = to.server - from.server;
  uint64_t least = UINT64_MAX, most = 0;
  for (int i = opt.stalled; i < opt.clients; i++) {
    uint64_t mine = clients[i].records - clients[i].at_start;
    if (mine < least) least = mine;
    if (mine > most) most = mine;
  }
  printf("{\"records\": %.0f, \"seconds\": %.3f, \"per_s\": %.0f, \"bytes_per_record\": %.1f, "
         "\"records_per_receive\": %.2f, \"cpu_s\": %.3f, \"cpu_share\": %.3f, \"cpu_s_per_million\": %.4f, "
         "\"descendants_cpu_s\": %.2f, \"client_cpu_share\": %.3f, \"least\": %lu, \"most\": %lu, \"closed\": %lu, "
         "\"errors\": %lu, \"pings\": %lu, \"rss_kb\": [%ld, %ld]",
         count, wall, count / wall, count ? (double)(to.bytes - from.bytes) / count : 0,
         to.receives > from.receives ? count / (double)(to.receives - from.receives) : 0, cpu, cpu / wall,
         count ? cpu / count * 1e6 : 0, to.descendants - from.descendants, (to.own - from.own) / wall, least, most,
         closed_count, errors_told, pings, rss_from, rss_kb());
  if (latency_count) {
    qsort(latencies, latency_count, sizeof *latencies, ascending);
    printf(", \"latency_us\": {\"p50\": %u, \"p90\": %u, \"p99\": %u, \"max\": %u}", latencies[latency_count / 2],
           latencies[latency_count * 9 / 10], latencies[latency_count * 99 / 100], latencies[latency_count - 1]);
  }
  printf("}\n");
}

static void sample(struct snapshot start, struct snapshot *last) {
  struct snapshot next = snap();
  double wall = next.at - last->at;
  fprintf(stderr, "{\"at\": %.1f, \"per_s\": %.0f, \"cpu_share\": %.3f, \"rss_kb\": %ld, \"closed\": %lu}\n",
          next.at - start.at, (double)(next.records - last->records) / wall, (next.server - last->server) / wall,
          rss_kb(), closed_count);
  *last = next;
}

static void run(struct client *clients, int poller) {
  struct epoll_event events[512];
  double opened = now_s(), warm_from = 0;
  long rss_from = 0;
  struct snapshot from = {0}, sampled = {0};
  for (;;) {
    int ready = epoll_wait(poller, events, 512, 20);
    for (int i = 0; i < ready; i++) receive(events[i].data.ptr, poller);
    double now = now_s();
    if (!warm_from) {
      if (started_count == (uint64_t)(opt.clients - opt.stalled)) warm_from = now;
      errno = 0;
      if (now - opened > opt.max_wait) fail("not every client got a record in time");
    } else if (!measuring && now - warm_from >= opt.warm) {
      measuring = 1;
      for (int i = 0; i < opt.clients; i++) clients[i].at_start = clients[i].records;
      rss_from = rss_kb();
      from = sampled = snap();
    } else if (measuring && now - from.at >= opt.seconds) {
      report(clients, from, snap(), rss_from);
      return;
    } else if (measuring && opt.sample > 0 && now - sampled.at >= opt.sample) {
      sample(from, &sampled);
    }
  }
}

static void read_options(int argc, char **argv) {
  static const struct option known[] = {
      {"port", 1, 0, 'p'},    {"path", 1, 0, 'u'},    {"batch", 0, 0, 'B'},    {"clients", 1, 0, 'n'}, {"symbols", 1, 0, 'k'},
      {"universe", 1, 0, 'm'}, {"names", 1, 0, 'N'},  {"broker", 1, 0, 'b'},  {"pid", 1, 0, 'P'},
      {"warm", 1, 0, 'w'},    {"seconds", 1, 0, 's'}, {"stalled", 1, 0, 'S'}, {"latency", 0, 0, 'l'},
      {"trades", 0, 0, 't'},  {"sample", 1, 0, 'i'},  {"max-wait", 1, 0, 'W'}, {0, 0, 0, 0}};
  for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) switch (o) {
      case 'p': opt.port = atoi(optarg); break;
      case 'u': opt.path = optarg; break;
      case 'B': opt.path = "/stream?batch=true"; break;
      case 'n': opt.clients = atoi(optarg); break;
      case 'k': opt.per_client = atoi(optarg); break;
      case 'm': opt.universe = atoi(optarg); break;
      case 'N': opt.names = optarg; break;
      case 'b': opt.broker = optarg; break;
      case 'P': opt.pid = atoi(optarg); break;
      case 'w': opt.warm = atof(optarg); break;
      case 's': opt.seconds = atof(optarg); break;
      case 'S': opt.stalled = atoi(optarg); break;
      case 'l': opt.latency = 1; break;
      case 't': opt.trades = 1; break;
      case 'i': opt.sample = atof(optarg); break;
      case 'W': opt.max_wait = atof(optarg); break;
      default: exit(2);
    }
  if (!opt.port || opt.clients <= opt.stalled || opt.per_client > opt.universe || opt.universe > MAX_SYMBOLS) {
    fprintf(stderr, "usage: see the head of load.c\n");
    exit(2);
  }
}

int main(int argc, char **argv) {
  read_options(argc, argv);
  alarm((unsigned)(opt.max_wait + opt.warm + opt.seconds + 10 + opt.clients / 50));
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  struct client *clients = calloc((size_t)opt.clients, sizeof *clients);
  latencies = opt.latency ? malloc(MAX_LATENCIES * sizeof *latencies) : NULL;
  int poller = epoll_create1(EPOLL_CLOEXEC);
  // all connections first: a subscription starts the stream, and nobody should wait for the others unread
  for (int i = 0; i < opt.clients; i++) {
    clients[i].stalled = i < opt.stalled;
    connect_client(&clients[i]);
  }
  for (int i = 0; i < opt.clients; i++) {
    struct client *c = &clients[i];
    subscribe(c, i);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (!c->stalled && epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
  }
  run(clients, poller);
  return 0;
}
