"""What grpcurl does: learn the whole contract from the service alone, then call it."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha import reflection_pb2_grpc

from fakes import DETECTOR_NAME, POSE_NAME
from posegate.client import Client
from posegate.errors import TooLarge
from wire.running import Service

POSE_SERVICE = "posegate.v1.PoseService"


@pytest.fixture
def channel(service: Service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.grpc_address) as channel:
        yield channel


def ask(channel: grpc.Channel, **question: str) -> pb.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([pb.ServerReflectionRequest(**question)]))
    return answer


def learn(channel: grpc.Channel, symbol: str) -> DescriptorPool:
    """Every file that describes the symbol, as the service tells them."""
    files: dict[str, FileDescriptorProto] = {}
    questions = [{"file_containing_symbol": symbol}]
    while questions:
        answer = ask(channel, **questions.pop()).file_descriptor_response
        for data in answer.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            files[file.name] = file
            unknown = [name for name in file.dependency if name not in files]
            questions += [{"file_by_filename": name} for name in unknown]
    pool = DescriptorPool()
    for file in files.values():
        pool.Add(file)
    return pool


def call(channel: grpc.Channel, service: ServiceDescriptor, name: str, **fields: object) -> dict:
    """Call a unary method with nothing but what reflection told."""
    method = service.methods_by_name[name]
    request = GetMessageClass(method.input_type)(**fields)
    send = channel.unary_unary(
        f"/{service.full_name}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return MessageToDict(send(request, timeout=60), preserving_proto_field_name=True)


def test_services_are_listed(channel: grpc.Channel):
    listed = ask(channel, list_services="").list_services_response.service
    assert {service.name for service in listed} == {
        POSE_SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


def test_the_contract_is_described_and_can_be_called(channel: grpc.Channel, photo: bytes):
    service = learn(channel, POSE_SERVICE).FindServiceByName(POSE_SERVICE)
    shapes = {
        method.name: (method.client_streaming, method.server_streaming)
        for method in service.methods
    }
    assert shapes == {
        "Estimate": (False, False),
        "Stream": (True, True),
        "ListModels": (False, False),
    }
    models = call(channel, service, "ListModels")["models"]
    assert [model["name"] for model in models] == [DETECTOR_NAME, POSE_NAME]
    poses = call(channel, service, "Estimate", image=photo)["poses"]
    assert len(poses["people"]) == 2
    assert len(poses["people"][0]["keypoints"]) == 17


def test_an_unknown_symbol_is_not_found(channel: grpc.Channel):
    answer = ask(channel, file_containing_symbol="posegate.v1.Nothing")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_picture_far_over_the_limit_is_refused_by_the_service_not_the_client(service: Service):
    far_over = bytes(50 * 2**20)
    with Client(f"grpc://{service.grpc_address}", timeout_s=60) as client:
        with pytest.raises(TooLarge, match="Received message larger"):
            client.estimate(far_over)
        with pytest.raises(TooLarge, match="Received message larger"):
            list(client.stream([far_over]))
