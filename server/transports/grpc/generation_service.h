// holo.v1.Generation over gRPC. The module's inside.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>

#include "holo/v1/generation.grpc.pb.h"
#include "server/completion/completion.h"
#include "server/transports/grpc/live_calls.h"

namespace holo::transports::grpc_transport {

class GenerationService final : public v1::Generation::CallbackService {
 public:
  GenerationService(completion::Service& service, completion::ApiKeys keys, std::function<void(const std::string&)> log)
      : service_(service), keys_(std::move(keys)), log_(std::move(log)) {}

  ::grpc::ServerUnaryReactor* Models(::grpc::CallbackServerContext* context, const v1::ModelsRequest* request,
                                     v1::ModelsResponse* response) override;
  ::grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(::grpc::CallbackServerContext* context,
                                                             const v1::GenerateRequest* request) override;
  ::grpc::ServerBidiReactor<v1::ChatRequest, v1::GenerateResponse>* Chat(
      ::grpc::CallbackServerContext* context) override;
  ::grpc::ServerUnaryReactor* Tokenize(::grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                       v1::TokenizeResponse* response) override;
  ::grpc::ServerUnaryReactor* Detokenize(::grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                         v1::DetokenizeResponse* response) override;
  ::grpc::ServerUnaryReactor* CreateSession(::grpc::CallbackServerContext* context,
                                            const v1::CreateSessionRequest* request, v1::Session* response) override;
  ::grpc::ServerUnaryReactor* GetSession(::grpc::CallbackServerContext* context, const v1::GetSessionRequest* request,
                                         v1::Session* response) override;
  ::grpc::ServerUnaryReactor* ListSessions(::grpc::CallbackServerContext* context,
                                           const v1::ListSessionsRequest* request,
                                           v1::ListSessionsResponse* response) override;
  ::grpc::ServerUnaryReactor* SaveSession(::grpc::CallbackServerContext* context, const v1::SaveSessionRequest* request,
                                          v1::Session* response) override;
  ::grpc::ServerUnaryReactor* DeleteSession(::grpc::CallbackServerContext* context,
                                            const v1::DeleteSessionRequest* request,
                                            v1::DeleteSessionResponse* response) override;

  void WaitForNone() { live_.WaitForNone(); }

 private:
  // Who asks, for fairness; kUnauthenticated.
  [[nodiscard]] Result<std::string> Admit(const ::grpc::CallbackServerContext& context) const;
  template <typename Work>
  ::grpc::ServerUnaryReactor* Answer(::grpc::CallbackServerContext* context, const Work& work);
  // work(owner) where files may be read and written.
  template <typename Work>
  ::grpc::ServerUnaryReactor* AnswerLater(::grpc::CallbackServerContext* context, Work work);

  completion::Service& service_;
  const completion::ApiKeys keys_;
  const std::function<void(const std::string&)> log_;
  LiveCalls live_;
};

}  // namespace holo::transports::grpc_transport
