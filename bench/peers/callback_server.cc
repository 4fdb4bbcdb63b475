// A C++ gRPC server with the callback API: hands out bytes, and does nothing else.
//
//   callback_server [CERT_FILE KEY_FILE]
//
// It writes its address to standard output and serves until standard input ends.
#include <grpcpp/grpcpp.h>

#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

#include "qrng_grpc/v1/entropy.grpc.pb.h"

using namespace qrng::v1;
using grpc::CallbackServerContext;

const std::string kBytes(1 << 20, '\x5a');

class Subscription : public grpc::ServerWriteReactor<SubscribeEntropyResponse> {
 public:
  explicit Subscription(const SubscribeEntropyRequest* request)
      : size_(request->bytes_per_message()), left_(request->total_bytes()) {
    Next();
  }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (left_ <= 0) return Finish(grpc::Status::OK);
    left_ -= size_;
    reply_.set_data(kBytes.data(), size_);
    StartWrite(&reply_);
  }
  const long size_;
  long left_;
  SubscribeEntropyResponse reply_;
};

class Conversation : public grpc::ServerBidiReactor<StreamEntropyRequest, StreamEntropyResponse> {
 public:
  Conversation() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    reply_.set_data(kBytes.data(), request_.bytes_needed());
    StartWrite(&reply_);
  }
  void OnWriteDone(bool ok) override { ok ? StartRead(&request_) : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  StreamEntropyRequest request_;
  StreamEntropyResponse reply_;
};

class Service : public EntropyService::CallbackService {
  grpc::ServerUnaryReactor* GetEntropy(CallbackServerContext* context, const GetEntropyRequest* request,
                                       GetEntropyResponse* reply) override {
    reply->set_data(kBytes.data(), request->bytes_needed());
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerWriteReactor<SubscribeEntropyResponse>* SubscribeEntropy(
      CallbackServerContext*, const SubscribeEntropyRequest* request) override {
    return new Subscription(request);
  }
  grpc::ServerBidiReactor<StreamEntropyRequest, StreamEntropyResponse>* StreamEntropy(
      CallbackServerContext*) override {
    return new Conversation();
  }
};

std::string Text(const char* file) {
  std::stringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

int main(int count, char** words) {
  auto credentials = grpc::InsecureServerCredentials();
  if (count == 3) {
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({Text(words[2]), Text(words[1])});
    credentials = grpc::SslServerCredentials(options);
  }
  Service service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", credentials, &port);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  std::cout << "127.0.0.1:" << port << std::endl;
  std::cin.ignore(1 << 20, EOF);
  server->Shutdown(std::chrono::system_clock::now());
}
