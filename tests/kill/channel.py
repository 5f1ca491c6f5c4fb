"""gRPC to sockets that come and go."""

import grpc

OPTIONS = (
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # Each channel its own connection: one that died must not be another's.
    ("grpc.use_local_subchannel_pool", 1),
)


def channel(path):
    return grpc.insecure_channel(f"unix:{path}", options=OPTIONS)
