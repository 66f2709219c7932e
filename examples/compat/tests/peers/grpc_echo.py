"""gRPC's own implementation (grpcio) as client or server of throng.Echo.

usage: grpc_echo.py call|serve ADDRESS:PORT

Its messages have one string, field 1, which is written and read by hand here, so that no
protobuf is needed.
"""

import sys
import threading
from concurrent import futures

import grpc


def encode(text):
    data = text.encode()
    length, rest = b"", len(data)
    while rest > 0x7F:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return b"\x0a" + length + bytes([rest]) + data if data else b""


def decode(message):
    if not message:
        return ""
    if message[0] != 0x0A:
        raise ValueError(f"field {message[0]:#x}")
    length, at = 0, 1
    while True:
        byte = message[at]
        length |= (byte & 0x7F) << 7 * (at - 1)
        at += 1
        if byte < 0x80:
            break
    if len(message) != at + length:
        raise ValueError(f"{len(message)} bytes, of them {length} in the string")
    return message[at:].decode()


def call(address):
    with grpc.insecure_channel(address) as channel:
        say = channel.unary_unary("/throng.Echo/Say", encode, decode)
        for text in ["hello", "\u00e9" * 250_000]:
            answer, under = say.with_call(text, timeout=20)
            assert answer == text, f"{len(text)} characters, {len(answer)} came back"
            assert under.code() == grpc.StatusCode.OK
        try:
            say("", timeout=20)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
            assert error.details() == "nothing to echo", error
        else:
            raise AssertionError("an empty message was not refused")
        texts = [f"message {i}" for i in range(100)]
        stream = channel.stream_stream("/throng.Echo/Stream", encode, decode)
        assert list(stream(iter(texts), timeout=20)) == texts
    print("say, refusal and stream: as expected")


def serve(address):
    def say(text, context):
        if not text:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "nothing to echo")
        return text

    methods = {
        "Say": grpc.unary_unary_rpc_method_handler(say, decode, encode),
        "Stream": grpc.stream_stream_rpc_method_handler(lambda texts, _: texts, decode, encode),
    }
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("throng.Echo", methods)])
    server.add_insecure_port(address)
    server.start()
    threading.Event().wait()


{"call": call, "serve": serve}[sys.argv[1]](sys.argv[2])
