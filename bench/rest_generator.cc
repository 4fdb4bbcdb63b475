// Load for a REST server over connections that stay open, each with one request at a time.
//
//   rest_generator ADDRESS PATH API_KEY [CA_FILE]
//
// Each line on standard input is a run, as for generator.cc: how many replies, how many connections, how many requests a
// second (0: the next as soon as one is answered), how long a body must at least be, and 2b (a plus in hex) for requests with
// an id each, anything else for requests that are all alike. What came of it is written as a line of JSON. With a rate, requests begin when they are due, on a connection that is free; their
// time counts from when they were due.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

// A socket, with TLS on it or without.
struct Connection {
  int socket = -1;
  SSL* tls = nullptr;
  bool busy = false;
  Clock::time_point began;
  std::string received;

  bool Send(const std::string& text) {
    const int length = static_cast<int>(text.size());
    return length == (tls ? SSL_write(tls, text.data(), length) : write(socket, text.data(), length));
  }
  // Returns how many bytes came, 0 when what came was no data (TLS sends tickets), -1 at the end.
  ssize_t Take(char* buffer, int size) {
    const ssize_t n = tls ? SSL_read(tls, buffer, size) : read(socket, buffer, size);
    if (n > 0) return n;
    return tls && SSL_get_error(tls, static_cast<int>(n)) == SSL_ERROR_WANT_READ ? 0 : -1;
  }
};

int Socket(const std::string& address) {
  const auto colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(std::stoi(address.substr(colon + 1)));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  const int made = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return connect(made, reinterpret_cast<sockaddr*>(&to), sizeof to) ? -1 : made;
}

// Returns what connections with TLS are made of, none without a file of authorities.
SSL_CTX* Trusting(const char* ca_file) {
  if (!ca_file) return nullptr;
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_load_verify_locations(context, ca_file, nullptr);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);  // a ticket is no reason to wait for data
  return context;
}

Connection Connect(const std::string& address, SSL_CTX* context) {
  Connection made{Socket(address)};
  if (!context) return made;
  made.tls = SSL_new(context);
  SSL_set_fd(made.tls, made.socket);
  if (SSL_connect(made.tls) != 1) std::exit(1);
  return made;
}

struct Run {
  std::string request;
  bool numbered;
  long replies, begun = 0, ended = 0, errors = 0, short_replies = 0;
  size_t least_size;
  double rate;
  Clock::time_point start;
  std::vector<int64_t> taken_ns;

  // When the next request is due; without a rate, it has been since the beginning.
  Clock::time_point Due() const {
    return rate > 0 ? start + std::chrono::nanoseconds(static_cast<int64_t>(begun / rate * 1e9)) : start;
  }
  void Begin(Connection& connection) {
    connection.began = rate > 0 ? Due() : Clock::now();
    connection.busy = true;
    begun++;
    if (!connection.Send(numbered ? Numbered() : request + "\r\n")) Fail();
  }
  std::string Numbered() const {
    static long number = 1000000000;
    return request + "X-Request-Id: " + std::to_string(number++) + "\r\n\r\n";
  }
  void Fail() {
    errors++;
    ended = begun = replies;  // one is enough
  }
  // Takes in what came. A reply is whole when its body is as long as its header says.
  void Receive(Connection& connection) {
    char buffer[1 << 16];
    const ssize_t n = connection.Take(buffer, sizeof buffer);
    if (n < 0) return Fail();
    auto& text = connection.received;
    text.append(buffer, n);
    const auto head = text.find("\r\n\r\n");
    if (head == std::string::npos) return;
    const auto field = text.find("Content-Length: ");
    const size_t length = field < head ? std::stoul(text.substr(field + 16)) : 0;
    if (text.size() < head + 4 + length) return;
    if (text.compare(9, 3, "200")) return Fail();
    short_replies += length < least_size;
    taken_ns.push_back((Clock::now() - connection.began).count());
    connection.busy = false;
    text.clear();
    ended++;
  }
  void Go(std::vector<Connection>& connections) {
    start = Clock::now();
    std::vector<pollfd> watched;
    for (auto& connection : connections) watched.push_back({connection.socket, POLLIN, 0});
    while (ended < replies) {
      for (auto& connection : connections)
        if (!connection.busy && begun < replies && Due() <= Clock::now()) Begin(connection);
      timespec wait{0, 100000};
      ppoll(watched.data(), watched.size(), rate > 0 ? &wait : nullptr, nullptr);
      for (size_t i = 0; i < watched.size(); i++)
        if (watched[i].revents) Receive(connections[i]);
    }
  }
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

std::string Summary(Run& run, double seconds, double cpu_s) {
  auto& taken = run.taken_ns;
  std::sort(taken.begin(), taken.end());
  const auto quantile_us = [&](double q) {
    if (taken.empty()) return 0.0;
    return taken[std::min(taken.size() - 1, static_cast<size_t>(q * taken.size()))] / 1e3;
  };
  std::ostringstream text;
  text << "{\"replies\":" << taken.size() << ",\"errors\":" << run.errors << ",\"short_replies\":" << run.short_replies
       << ",\"seconds\":" << seconds << ",\"generator_cpu_s\":" << cpu_s << ",\"p50_us\":" << quantile_us(0.5)
       << ",\"p99_us\":" << quantile_us(0.99) << ",\"p99_9_us\":" << quantile_us(0.999)
       << ",\"longest_us\":" << quantile_us(1) << "}";
  return text.str();
}

int main(int count, char** words) {
  if (count < 4) return 2;
  SSL_CTX* context = Trusting(count > 4 ? words[4] : nullptr);
  const std::string request = std::string("GET ") + words[2] + " HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer " +
                              words[3] + "\r\n";
  std::vector<Connection> connections;
  long replies;
  size_t in_flight, least_size;
  double rate;
  std::string kind;
  while (std::cin >> replies >> in_flight >> rate >> least_size >> kind) {
    while (connections.size() < in_flight) connections.push_back(Connect(words[1], context));
    Run run{request, kind == "2b", replies};
    run.least_size = least_size;
    run.rate = rate;
    run.taken_ns.reserve(replies);
    const auto began = Clock::now();
    const double cpu_before = CpuSeconds();
    run.Go(connections);
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    std::cout << Summary(run, seconds, CpuSeconds() - cpu_before) << std::endl;
    if (run.errors) return 1;
  }
}
