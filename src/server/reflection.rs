//! grpc.reflection.v1: which services and messages there are, for tools such as grpcurl. The older v1alpha has the same messages under another name.
//!
//! It tells what the `.proto` files tell and nothing of anybody's data, so no user is asked for. Extensions do not exist in proto3.
//! Source: the gRPC server reflection protocol.

use super::gateway::POOL;
use crate::proto::reflection as pb;
use crate::proto::reflection::server_reflection_request::MessageRequest;
use crate::proto::reflection::server_reflection_response::MessageResponse;
use crate::proto::reflection::server_reflection_server::ServerReflection;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use futures::stream::unfold;
use http::uri::PathAndQuery;
use prost_reflect::FileDescriptor;
use std::collections::BTreeSet;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

/// The reflection service.
pub(super) struct Service;

/// The same call under v1's name.
pub(super) fn as_v1<B>(mut request: http::Request<B>) -> http::Request<B> {
    let path = request.uri().path().replacen(".v1alpha.", ".v1.", 1);
    if let Ok(path) = path.parse::<PathAndQuery>() {
        *request.uri_mut() = path.into();
    }
    request
}

#[tonic::async_trait]
impl ServerReflection for Service {
    type ServerReflectionInfoStream = BoxStream<'static, Result<pb::ServerReflectionResponse, Status>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<pb::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let answers = unfold(request.into_inner(), |mut requests| async {
            match requests.message().await {
                Ok(request) => Some((Ok(answer(request?)), requests)),
                Err(status) => Some((Err(status), requests)),
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

fn answer(request: pb::ServerReflectionRequest) -> pb::ServerReflectionResponse {
    let found = match &request.message_request {
        Some(MessageRequest::ListServices(_)) => Some(services()),
        Some(MessageRequest::FileByFilename(name)) => POOL.get_file_by_name(name).map(|file| files(&file)),
        Some(MessageRequest::FileContainingSymbol(symbol)) => file_of(symbol).map(|file| files(&file)),
        Some(MessageRequest::AllExtensionNumbersOfType(name)) => POOL.get_message_by_name(name).map(|_| {
            let (base_type_name, extension_number) = (name.clone(), Vec::new());
            MessageResponse::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
                base_type_name,
                extension_number,
            })
        }),
        Some(MessageRequest::FileContainingExtension(_)) | None => None,
    };
    let message_response = Some(found.unwrap_or_else(|| {
        let (error_code, error_message) = (Code::NotFound as i32, "not found".to_owned());
        MessageResponse::ErrorResponse(pb::ErrorResponse { error_code, error_message })
    }));
    pb::ServerReflectionResponse { valid_host: request.host.clone(), original_request: Some(request), message_response }
}

fn services() -> MessageResponse {
    let service = POOL.services().map(|service| pb::ServiceResponse { name: service.full_name().to_owned() }).collect();
    MessageResponse::ListServicesResponse(pb::ListServiceResponse { service })
}

/// Where a service, a method, a message, a field or an enum is declared.
fn file_of(symbol: &str) -> Option<FileDescriptor> {
    let declared = |name: &str| {
        let service = POOL.get_service_by_name(name).map(|service| service.parent_file());
        let message = || POOL.get_message_by_name(name).map(|message| message.parent_file());
        let kind = || POOL.get_enum_by_name(name).map(|kind| kind.parent_file());
        service.or_else(message).or_else(kind)
    };
    declared(symbol).or_else(|| declared(symbol.rsplit_once('.')?.0))
}

/// A file and all that it imports.
fn files(file: &FileDescriptor) -> MessageResponse {
    let (mut waiting, mut seen, mut encoded) = (vec![file.clone()], BTreeSet::new(), Vec::new());
    while let Some(file) = waiting.pop() {
        if seen.insert(file.name().to_owned()) {
            encoded.push(Bytes::from(file.encode_to_vec()));
            waiting.extend(file.dependencies());
        }
    }
    MessageResponse::FileDescriptorResponse(pb::FileDescriptorResponse { file_descriptor_proto: encoded })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(what: MessageRequest) -> MessageResponse {
        let request = pb::ServerReflectionRequest { host: "h".into(), message_request: Some(what) };
        let response = answer(request.clone());
        assert_eq!((response.valid_host, response.original_request), ("h".into(), Some(request)));
        response.message_response.expect("an answer")
    }

    #[test]
    fn all_services_are_listed_and_found_with_what_they_import() {
        let MessageResponse::ListServicesResponse(list) = ask(MessageRequest::ListServices(String::new())) else {
            panic!("no list");
        };
        let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
        for name in ["etcdserverpb.KV", "v3electionpb.Election", "grpc.health.v1.Health"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for symbol in ["etcdserverpb.KV", "etcdserverpb.KV.Range", "etcdserverpb.RangeRequest.SortOrder"] {
            let found = ask(MessageRequest::FileContainingSymbol(symbol.into()));
            let MessageResponse::FileDescriptorResponse(files) = found else { panic!("{symbol}: {found:?}") };
            assert_eq!(files.file_descriptor_proto.len(), 3, "rpc.proto, kv.proto, auth.proto");
        }
        let unknown = ask(MessageRequest::FileContainingSymbol("etcdserverpb.Nothing.at.all".into()));
        assert!(matches!(unknown, MessageResponse::ErrorResponse(e) if e.error_code == 5));
    }

    #[test]
    fn the_older_name_leads_to_the_same_service() {
        let request = http::Request::builder().uri("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
        let request = as_v1(request.body(()).expect("a request"));
        assert_eq!(request.uri().path(), "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    }
}
