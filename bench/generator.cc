// Load for a gRPC server, made as cheaply as gRPC allows: messages stay serialised, one thread reaps the replies.
//
//   generator ADDRESS KIND METHOD API_KEY [CA_FILE]
//
// KIND is unary, subscribe (one request, many replies) or stream (request and reply in turn). Each line on standard
// input is a run: how many replies, how many calls in flight, how many calls a second (0: the next as soon as one ends), how
// long the data of a reply must at least be, and the request in hex. What came of it is written as a line of JSON. With a rate
// (unary only), calls begin when they are due, whatever became of those before, and their time counts from when they
// were due.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

struct Target {
  grpc::GenericStub stub;
  std::string kind, method, api_key;
};

struct Run {
  Target& target;
  grpc::ByteBuffer request;
  long replies;
  size_t least_size;
  grpc::CompletionQueue queue;
  long begun = 0, in_flight = 0, errors = 0, short_replies = 0;
  std::string first_error;
  std::vector<int64_t> taken_ns;

  void Took(Clock::time_point began) { taken_ns.push_back((Clock::now() - began).count()); }
  void Failed(const grpc::Status& status) {
    if (!errors++) first_error = status.error_message();
    begun = replies;  // one is enough
  }
  void Check(const grpc::ByteBuffer& reply) { short_replies += reply.Length() < least_size; }
};

// What a completion is delivered to.
struct Step {
  virtual void Done(bool ok) = 0;
  virtual ~Step() = default;
};

struct Call : Step {
  Run& run;
  grpc::ClientContext context;
  explicit Call(Run& run) : run(run) {
    context.AddMetadata("api-key", run.target.api_key);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  }
};

struct Unary : Call {
  Clock::time_point began;
  bool paced;
  grpc::ByteBuffer reply;
  grpc::Status status;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;

  Unary(Run& run, Clock::time_point began, bool paced) : Call(run), began(began), paced(paced) {
    reader = run.target.stub.PrepareUnaryCall(&context, run.target.method, run.request, &run.queue);
    reader->StartCall();
    reader->Finish(&reply, &status, this);
  }
  void Done(bool) override {
    if (status.ok()) {
      run.Took(began);
      run.Check(reply);
    } else {
      run.Failed(status);
    }
    if (!paced && run.begun < run.replies) {
      run.begun++;
      new Unary(run, Clock::now(), false);
    } else {
      run.in_flight--;
    }
    delete this;
  }
};

// Either kind of stream: `turns` of them asks again after each reply, the other only once.
struct Stream : Call {
  enum State { kStarting, kWriting, kReading, kClosing, kFinishing } state = kStarting;
  bool turns;
  long left;
  Clock::time_point began;
  grpc::ByteBuffer reply;
  grpc::Status status;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;

  Stream(Run& run, long messages, bool turns) : Call(run), turns(turns), left(messages) {
    stream = run.target.stub.PrepareCall(&context, run.target.method, &run.queue);
    stream->StartCall(this);
  }
  void Go(State next) {
    state = next;
    if (next == kWriting) {
      began = Clock::now();
      if (turns) stream->Write(run.request, this);
      else stream->WriteLast(run.request, grpc::WriteOptions(), this);
    } else if (next == kReading) {
      reply.Clear();
      stream->Read(&reply, this);
    } else if (next == kClosing) {
      stream->WritesDone(this);
    } else {
      stream->Finish(&status, this);
    }
  }
  void Done(bool ok) override {
    if (state == kFinishing) {
      if (!status.ok() || left > 0) run.Failed(status);
      run.in_flight--;
      delete this;
    } else if (!ok) {
      Go(kFinishing);
    } else if (state != kReading) {
      Go(state == kStarting ? kWriting : state == kWriting ? kReading : kFinishing);
    } else {
      run.Took(began);
      run.Check(reply);
      left--;
      began = Clock::now();
      if (!turns) Go(kReading);  // until the server ends it
      else Go(left > 0 ? kWriting : kClosing);
    }
  }
};

void Reap(Run& run) {
  void* step;
  bool ok;
  while (run.in_flight > 0 && run.queue.Next(&step, &ok)) static_cast<Step*>(step)->Done(ok);
}

void Pace(Run& run, double rate) {
  run.in_flight = run.replies;
  std::thread reaper([&] { Reap(run); });
  const auto start = Clock::now();
  for (long i = 0; i < run.replies; i++) {
    const auto due = start + std::chrono::nanoseconds(static_cast<int64_t>(i / rate * 1e9));
    std::this_thread::sleep_until(due);
    new Unary(run, due, true);
  }
  reaper.join();
}

void KeepInFlight(Run& run, long in_flight) {
  const long calls = run.in_flight = run.begun = std::min(in_flight, run.replies);
  for (long i = 0; i < calls; i++) {
    if (run.target.kind == "unary") new Unary(run, Clock::now(), false);
    else new Stream(run, run.replies / calls, run.target.kind == "stream");
  }
  Reap(run);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
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
       << ",\"longest_us\":" << quantile_us(1) << ",\"first_error\":\"" << run.first_error << "\"}";
  return text.str();
}

std::shared_ptr<grpc::Channel> Connect(const std::string& address, const char* ca_file) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(16 << 20);
  auto credentials = grpc::InsecureChannelCredentials();
  if (ca_file) {
    std::stringstream authorities;
    authorities << std::ifstream(ca_file).rdbuf();
    credentials = grpc::SslCredentials({authorities.str(), "", ""});
  }
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

int main(int count, char** words) {
  if (count < 5) return 2;
  auto channel = Connect(words[1], count > 5 ? words[5] : nullptr);
  Target target{grpc::GenericStub(channel), words[2], words[3], words[4]};
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20))) return 1;
  long replies, in_flight;
  size_t least_size;
  double rate;
  std::string hex;
  while (std::cin >> replies >> in_flight >> rate >> least_size >> hex) {
    grpc::Slice slice(FromHex(hex));
    Run run{target, grpc::ByteBuffer(&slice, 1), replies, least_size};
    run.taken_ns.reserve(replies);
    const auto began = Clock::now();
    const double cpu_before = CpuSeconds();
    if (rate > 0) Pace(run, rate);
    else KeepInFlight(run, in_flight);
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    std::cout << Summary(run, seconds, CpuSeconds() - cpu_before) << std::endl;
  }
}
