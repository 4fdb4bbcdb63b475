// A C++ gRPC server with the callback API whose replies differ: eight bytes count them, and each repeats its request's
// number. For measuring clients, which refuse replies that repeat each other.
//
//   counting_server
//
// It writes its address to standard output and serves until standard input ends.
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <cstring>
#include <iostream>
#include <string>

#include "qrng_grpc/v1/entropy.grpc.pb.h"

using namespace qrng::v1;
using grpc::CallbackServerContext;

std::atomic<uint64_t> counted{0};

template <typename Request, typename Response>
void Answer(const Request& request, Response* reply) {
  std::string* data = reply->mutable_data();
  data->assign(request.bytes_needed(), '\x5a');
  const uint64_t number = ++counted;
  std::memcpy(data->data(), &number, std::min(data->size(), sizeof number));
  reply->set_sequence_id(request.sequence_id());
}

class Conversation : public grpc::ServerBidiReactor<StreamEntropyRequest, StreamEntropyResponse> {
 public:
  Conversation() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    Answer(request_, &reply_);
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
    Answer(*request, reply);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
  grpc::ServerBidiReactor<StreamEntropyRequest, StreamEntropyResponse>* StreamEntropy(CallbackServerContext*) override {
    return new Conversation;
  }
};

int main() {
  Service service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  auto server = builder.BuildAndStart();
  std::cout << "127.0.0.1:" << port << std::endl;
  std::string line;
  while (std::getline(std::cin, line)) {
  }
  server->Shutdown();
}
